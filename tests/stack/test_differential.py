"""Bytes that nginx accepts mean the same to the gateway, and nobody can put a request into another.

Each message of the corpus goes through nginx and directly to the gateway; an app answers with what
it was told. Behind each message comes a request whose answer shows that nothing got out of step.
"""

import secrets
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from messages import CONTENT, END, MESSAGES, Kind, Message, random_messages
from raw_requests import load_invalid, load_valid
from stacks import Lab
from wire import Address, Answer, Connection, wait_until

# the stack has the usual limits, and one proxy that is trusted
VALID = {n: case for n, case in load_valid().items() if not (case.limits or case.trusted)}
SEED = 9112
# Of one hop only (RFC 9110 §7.6.1), about framing, or set by nginx for the gateway.
NOT_END_TO_END = {
    "CONNECTION", "CONTENT_LENGTH", "EXPECT", "HOST", "TE", "TRANSFER_ENCODING", "UPGRADE",
    "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PORT", "X_FORWARDED_PROTO", "X_REAL_IP",
    "X_REQUEST_ID",
}  # fmt: skip


@pytest.fixture(scope="module", params=["nginx", "gateway"])
def entrance(lab: Lab, request: pytest.FixtureRequest) -> tuple[str, Address]:
    return request.param, {"nginx": lab.address, "gateway": lab.direct}[request.param]


def send(address: Address, raw: bytes, *methods: str) -> list[Answer]:
    """All answers to ``raw``, of requests with those methods, and to the request behind it."""
    with Connection(address) as client:
        client.send(raw + END)
        return client.read_answers(*methods)


def told(answer: Answer) -> dict[str, Any]:
    """What the app was told, as far as it is the client's."""
    seen = answer.json()
    return {
        "method": seen["method"],
        "path": (seen["script_name"], seen["path_info"]),
        "query": seen["query"],
        "host": seen["fields"].get("HTTP_HOST", "").lower(),
        "content": seen["content"].encode("latin-1"),
        "fields": end_to_end(seen["fields"]),
    }


def end_to_end(fields: dict[str, str]) -> dict[str, str]:
    """Those of WSGI's fields that are for the app; nginx passes on the others in its own way."""
    short = {name.removeprefix("HTTP_"): value for name, value in fields.items()}
    return {name: value for name, value in short.items() if name not in NOT_END_TO_END}


def meant(message: Message) -> dict[str, Any]:
    return {
        "method": message.method,
        "path": ("/echo", message.path_info),
        "query": message.query,
        "host": message.host,
        "content": message.content,
        "fields": message.fields,
    }


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_message_means_the_same_everywhere_or_is_refused(entrance, message: Message):
    name, address = entrance
    answer, *rest = send(address, message.raw)
    if message.kind is Kind.ALIKE or (message.kind is Kind.MENDED and answer.status == 200):
        assert answer.status == 200, answer
        assert told(answer) == meant(message)
        assert len(rest) == 1, "the connection is kept"
    else:
        assert 400 <= answer.status <= 505, answer
        # nginx passes on the gateway's refusal of a message that it has read to its end
        assert len(rest) <= (1 if name == "nginx" else 0)
    for answer in rest:
        assert answer.json()["path_info"] == "/end"


@pytest.mark.parametrize("name", VALID)
def test_a_valid_request_means_the_same_through_nginx(lab: Lab, name: str):
    """Those of ``tests/requests``, which say what the gateway alone makes of them."""
    case = VALID[name]
    answers = send(lab.address, case.raw, *(request.method for request in case.request))
    for request, answer in zip(case.request, answers, strict=False):
        if answer.status != request.status:
            assert 400 <= answer.status <= 505, "nginx refuses more, and takes nothing else for it"
            return
        if answer.status == 200 and request.method != "HEAD":
            seen = told(answer)
            assert seen["method"] == request.method
            assert seen["path"] == ("", request.path_info)
            assert seen["query"] == request.query
            assert seen["content"] == request.content.encode("latin-1")
            # nginx writes a host in one way only, and drops names with other marks than a dash
            host = request.fields.get("HTTP_HOST", "localhost")
            assert seen["host"] == host.lower().rstrip(":").rstrip(".")
            assert seen["fields"].items() <= end_to_end(request.fields).items()


def throw(address: Address, raw: bytes) -> None:
    """Send it, and read for as long as something comes; what, the logs tell."""
    with Connection(address, timeout=0.3) as client, suppress(OSError):
        client.send(raw + END)
        while client.socket.recv(65536):
            pass


def is_answered_its_own(address: Address) -> bool:
    """Whether somebody else's request is answered, and not another one in its place."""
    token = secrets.token_hex(8)
    with Connection(address) as client:
        return client.ask(f"/echo/{token}").json()["path_info"] == f"/{token}"


def test_what_the_gateway_saw_is_what_nginx_passed_on(lab: Lab):
    """Every request in the gateway's log is one of nginx's, once, with the same method and target;
    one that was smuggled would have an id that nginx never gave."""
    print(f"{SEED=}")
    corpus = [case.raw for case in (*MESSAGES, *VALID.values(), *load_invalid().values())]
    # to apps that answer without reading: what they leave must not become the next request
    for target in (b"/fails", b"/nothing", b"/broken"):
        corpus += [message.raw.replace(b"/echo/x", target) for message in CONTENT]
    corpus += random_messages(300, SEED)
    address, outer_before = lab.address, len(lab.records("nginx"))
    inner_before = len(lab.records("gateway"))

    def attack(raw: bytes) -> bool:
        throw(address, raw)
        return is_answered_its_own(address)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(attack, corpus))

    outer: dict[str, dict[str, Any]] = {}
    inner: list[dict[str, Any]] = []

    def have_logs_settled() -> bool:
        outer.update((r["request_id"], r) for r in lab.records("nginx")[outer_before:])
        inner[:] = lab.records("gateway")[inner_before:]
        # a head that the gateway refuses to read tells it no id: it has one of its own
        unread = Counter(str(r["status"]) for r in inner if r["request_id"] not in outer)
        seen = {r["request_id"] for r in inner}
        passed_on = [r for r in outer.values() if r["upstream_status"].isdigit()]
        return unread == Counter(
            r["upstream_status"] for r in passed_on if r["request_id"] not in seen
        )

    wait_until(have_logs_settled, "each request in one log has its like in the other")
    read = [record for record in inner if record["request_id"] in outer]
    assert len(read) > len(corpus)
    assert len({record["request_id"] for record in read}) == len(read)
    assert all(record["status"] >= 400 for record in inner if record["request_id"] not in outer)
    for record in read:
        sent = outer[record["request_id"]]
        assert record["method"] == sent["method"]
        # of an absolute form nginx logs what stands behind the host, and passes on a path
        assert record["target"] in (sent["target"], f"/{sent['target']}")
