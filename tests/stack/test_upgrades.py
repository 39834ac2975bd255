"""Which requests may take their connection over: the same through nginx and without it."""

import pytest
from stacks import Lab
from wire import Address, Connection, build_request

TARGETS = [
    "/taker",
    "/other/x",
]  # an app, and another server, which both take what they are offered
ASKS = (("Connection", "keep-alive, Upgrade"), ("Upgrade", "echo"))


@pytest.fixture(scope="module", params=["nginx", "gateway"])
def entrance(lab: Lab, request: pytest.FixtureRequest) -> Address:
    return {"nginx": lab.address, "gateway": lab.direct}[request.param]


def ask(address: Address, target: str, *fields: tuple[str, str], version: str = "1.1") -> int:
    """The status of the answer's head."""
    request = build_request("here", target, "GET", *fields)
    with Connection(address) as client:
        client.send(request.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        line = b"".join(iter(lambda: client.socket.recv(1), b"\n"))
    return int(line.split()[1])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "connection",
    ["Upgrade", "upgrade", "keep-alive, Upgrade", "UPGRADE ,\tkeep-alive", "x-upgrade,upgrade"],
)
def test_a_request_that_asks_for_an_upgrade_gets_it(
    entrance: Address, target: str, connection: str
) -> None:
    assert ask(entrance, target, ("Connection", connection), ("Upgrade", "echo")) == 101


@pytest.mark.parametrize("target", TARGETS)
def test_fields_of_one_name_are_one_list(entrance: Address, target: str) -> None:
    fields = ("Connection", "keep-alive"), ("Connection", "Upgrade"), ("Upgrade", "echo")
    assert ask(entrance, target, *fields) == 101


@pytest.mark.parametrize("target", [*TARGETS, "/echo"])
def test_an_upgrade_in_http_1_0_is_ignored(entrance: Address, target: str) -> None:
    """RFC 9110 §7.8."""
    assert ask(entrance, target, *ASKS, version="1.0") == 200
    assert ask(entrance, target, *ASKS) == (200 if target == "/echo" else 101)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("connection", ["keep-alive", "x-upgrade", "upgrade-x", "not upgrade", ""])
def test_an_upgrade_that_connection_does_not_name_is_ignored(
    entrance: Address, target: str, connection: str
) -> None:
    """RFC 9110 §7.8: the option keeps a hop that does not know of the field from passing it on."""
    assert ask(entrance, target, ("Connection", connection), ("Upgrade", "echo")) == 200
