"""``gateway serve``: what its options change of a table, and which addresses it refuses."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.commands import main as cli
from gateway.config.model import Config
from gateway.supervisor import supervise

TABLE = """\
server: {listen: 127.0.0.1:8000, admin: 127.0.0.1:8001, trusted_proxies: ["::1"]}
mounts: {/a: {redirect: /b}}
"""
Serve = Callable[..., int]


@pytest.fixture
def served() -> list[Config]:
    """What a supervisor was started with."""
    return []


@pytest.fixture
def serve(served: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """``gateway serve`` of TABLE, up to the supervisor's start."""

    class Supervisor:
        def __init__(self, config: Config, *_: object) -> None:
            served.append(config)

        def run(self) -> int:
            return 0

    monkeypatch.setattr(supervise, "Supervisor", Supervisor)
    for name in ("configure_logs", "report_dropped"):
        monkeypatch.setattr(cli, name, lambda *_, **named: None)
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # which the command replaces
    table = tmp_path / "mounts.yaml"
    table.write_text(TABLE)
    return lambda *arguments: cli.main(["serve", "-c", str(table), *arguments])


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("0.0.0.0:9000", "0.0.0.0:9000"),
        ("LOCALHOST:0", "localhost:0"),
        ("[::1]:8001", "[::1]:8001"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_listen_takes_the_place_of_the_tables_own(
    serve: Serve, served: list[Config], address: str, listen: str
) -> None:
    assert serve("--listen", address) == 0
    [config] = served
    assert (config.server.listen, config.server.admin) == (listen, "127.0.0.1:8001")


ADDRESS = 'expected an address such as "127.0.0.1:8000", "[::1]:8000" or "unix:/run/x.sock"'
BOTH = '"127.0.0.1:8001" for admin cannot both be opened: choose another port'


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "8000",
            f'{ADDRESS}, got "8000": write "127.0.0.1:8000", or "0.0.0.0:8000" for every address',
        ),
        (":8000", f'{ADDRESS}, got ":8000": write "0.0.0.0:8000" for every address'),
        ("localhost", f'{ADDRESS}, got "localhost": add a port'),
        ("::1:8000", f'{ADDRESS}, got "::1:8000": write "[::1]:8000"'),
        ("", f'{ADDRESS}, got ""'),
        ("a\nb:1", f'{ADDRESS}, got "a\\nb:1"'),
        ("127.0.0.1:65536", 'expected a port up to 65535, got "127.0.0.1:65536"'),
        (
            "unix:x.sock",
            'expected "unix:" and the whole path of a socket, such as "unix:/run/x.sock", '
            'got "unix:x.sock"',
        ),
        ("127.0.0.1:8001", f'"127.0.0.1:8001" for requests and {BOTH}'),
        ("0.0.0.0:8001", f'"0.0.0.0:8001" for requests and {BOTH}'),
    ],
)
def test_listen_is_checked_as_the_tables_own(
    serve: Serve,
    served: list[Config],
    capsys: pytest.CaptureFixture[str],
    address: str,
    message: str,
) -> None:
    assert serve("--listen", address) == 2
    assert capsys.readouterr() == ("", f"--listen: {message}\n")
    assert not served


def test_workers_take_the_place_of_the_tables_own(serve: Serve, served: list[Config]) -> None:
    assert serve() == serve("--workers", "5") == 0
    assert [config.server.workers for config in served] == [2, 5]


def test_trust_adds_to_the_peers_of_the_table(serve: Serve, served: list[Config]) -> None:
    assert serve() == serve("--trust", "unix:10002", "--trust", "192.0.2.0/24") == 0
    assert [[str(peer) for peer in config.server.trusted_proxies] for config in served] == [
        ["::1/128"],
        ["::1/128", "unix:10002", "192.0.2.0/24"],
    ]


def test_a_peer_that_can_be_none_is_refused(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--trust", "nginx") == 2
    expected = 'an address, a CIDR such as "172.16.0.0/12", or "unix:www-data"'
    message = f'--trust: expected {expected}, got "nginx": names are not resolved\n'
    assert capsys.readouterr() == ("", message)
