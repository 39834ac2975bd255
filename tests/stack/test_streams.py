"""Bodies stream both ways, kept nowhere on the way: uploads, downloads, server-sent events."""

import hashlib
import json
import re
import resource
import secrets
import selectors
from collections.abc import Iterator
from itertools import islice

import pytest
from stacks import Example, Lab
from wire import Answer, Connection, CutShortError, build_request, wait_until

MIB = 1024 * 1024
HALF = bytes(range(256)) * (16 * MIB // 256)


@pytest.fixture
def name() -> str:
    return secrets.token_hex(8)


def spooled(lab: Lab) -> list[str]:
    """Files with content in nginx's temporary folders."""
    ran = lab.run_in("nginx", "find", "/tmp", "-type", "f", "-size", "+0", "!", "-name", "*.pid")
    assert ran.exit_code == 0, ran
    return ran.out.split()


def resident_bytes(lab: Lab, service: str) -> int:
    return sum(int(p["VmRSS"].split()[0]) * 1024 for p in lab.processes(service) if "VmRSS" in p)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_reaches_the_app_while_it_is_sent(lab: Lab, name, framing):
    is_chunked = framing == "chunked"
    how = ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(2 * len(HALF)))
    frame = (lambda data: b"%x\r\n%b\r\n" % (len(data), data)) if is_chunked else bytes
    before = {service: resident_bytes(lab, service) for service in ("nginx", "gateway")}
    with Connection(lab.address) as client:
        # chunks are taken in before the app is called, unless its mount says otherwise
        progress = f"/{'stream' if is_chunked else 'upload'}/{name}"
        client.send(build_request(client.host, progress, "PUT", how))
        client.send(frame(HALF))
        # the app has read all that was sent, and the rest does not exist yet
        wait_until(lambda: lab.fetch(progress).json() == len(HALF), "the app reads the first half")
        assert spooled(lab) == []
        client.send(frame(HALF))
        if is_chunked:
            client.send(b"0\r\n\r\n")
        answer = client.read_answer("PUT")
    assert answer.status == 200, answer
    digest = hashlib.sha256(HALF + HALF).hexdigest()
    assert answer.json() == {"received": 2 * len(HALF), "sha256": digest}
    for service, resident in before.items():
        grown = resident_bytes(lab, service) - resident
        assert grown < 16 * MIB, f"{service} holds {grown} bytes more after 32 MiB went through"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_over_the_limit_is_413(lab: Lab, name, framing):
    with Connection(lab.address) as client:
        if framing == "length":
            request = build_request(client.host, f"/small/{name}", "POST", content=b"x" * 2000)
        else:
            how = ("Transfer-Encoding", "chunked")
            request = build_request(client.host, f"/small/{name}", "PUT", how)
            request += b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"
        client.send(request)
        assert client.read_answer().status == 413
    assert lab.fetch(f"/small/{name}", "POST", content=b"x" * 1024).status == 200


def test_a_download_arrives_whole(lab: Lab):
    lines = 512 * 1024
    answer = lab.fetch(f"/download?{lines}")
    assert len(answer.content) == 64 * lines
    assert answer.content[-64:] == b"%063d\n" % (lines - 1)
    expected = hashlib.sha256()
    for number in range(lines):
        expected.update(b"%063d\n" % number)
    assert hashlib.sha256(answer.content).digest() == expected.digest()


def test_a_download_waits_for_a_slow_reader_and_spools_nothing(lab: Lab):
    lines = 512 * 1024
    before = {service: resident_bytes(lab, service) for service in ("nginx", "gateway")}
    with Connection(lab.address) as client:
        client.send(build_request(client.host, f"/download?{lines}"))
        head = client.read_head()
        pieces = client.read_content(head)
        received = len(next(pieces))
        assert spooled(lab) == []
        for service, resident in before.items():
            assert resident_bytes(lab, service) - resident < 16 * MIB
        received += sum(len(piece) for piece in pieces)
    assert received == 64 * lines


def test_an_answer_that_breaks_off_is_never_taken_for_whole(lab: Lab):
    with Connection(lab.address) as client:
        client.send(build_request(client.host, "/fails/late"))
        head = client.read_head()
        assert head.status == 200
        pieces = client.read_content(head)
        assert next(pieces) == b"so far so good\n"
        with pytest.raises(CutShortError):
            next(pieces)


def events_in(client: Connection, head: Answer) -> Iterator[str]:
    """The events of a stream, as they come."""
    buffer = b""
    for piece in client.read_content(head):
        buffer += piece
        while b"\n\n" in buffer:
            event, _, buffer = buffer.partition(b"\n\n")
            yield event.decode()


def test_each_event_arrives_before_the_next_is_produced(lab: Lab, name):
    with Connection(lab.address) as client:
        client.send(build_request(client.host, f"/steps/stream?{name}"))
        lab.fetch(f"/steps/next?{name}", "POST")
        head = client.read_head()
        assert head["Content-Type"] == "text/event-stream"
        events = events_in(client, head)
        for number in range(1, 6):
            # the app makes the next one only when asked to, which is after this one was read
            assert next(events) == f"data: {number}"
            lab.fetch(f"/steps/next?{name}", "POST")


def test_a_stream_ends_in_the_app_when_its_client_leaves(lab: Lab, name):
    def state() -> list[str]:
        return lab.fetch(f"/steps/state?{name}").json()

    with Connection(lab.address) as client:
        client.send(build_request(client.host, f"/steps/stream?{name}"))
        lab.fetch(f"/steps/next?{name}", "POST")
        assert next(events_in(client, client.read_head())) == "data: 1"
        assert state() == ["began"]
    wait_until(lambda: state() == ["began", "closed"], "the app notices")


def test_500_streams_are_open_at_once_and_all_are_fed(example: Example):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    clients = [Connection(example.address) for _ in range(500)]
    try:
        for client in clients:
            client.send(build_request(client.host, "/events/stream"))
        feed_all(clients)
        # others are served while all of them are open
        assert example.fetch("/notes/").status == 200
    finally:
        for client in clients:
            client.close()
    # one stream tells: asking again and again would leave streams of its own behind
    with Connection(example.address) as client:
        client.send(build_request(client.host, "/events/stream"))
        ticks = (e for e in events_in(client, client.read_head()) if "event: tick" in e)
        told = (json.loads(tick.partition("data: ")[2])["streams"] for tick in islice(ticks, 15))
        assert 1 in told, "streams that were left are still fed"


def feed_all(clients: list[Connection]) -> None:
    """Read until every client has had the past and two ticks."""
    received = dict.fromkeys(clients, b"")
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            ready = selector.select(timeout=10)
            assert ready, f"{len(selector.get_map())} streams went silent"
            for key, _ in ready:
                data = key.data.socket.recv(65536)
                assert data, "a stream was closed"
                received[key.data] += data
                if received[key.data].count(b"event: tick") >= 2:
                    selector.unregister(key.data.socket)
    for data in received.values():
        assert data.startswith(b"HTTP/1.1 200 ")
        assert b"event: past" in data
        times = [int(time) for time in re.findall(rb'"time":(\d+)', data)]
        assert times == sorted(set(times))
