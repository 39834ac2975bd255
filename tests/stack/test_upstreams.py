"""A mount that leads to another container: what arrives there, tunnels, and its absence."""

from stacks import Lab
from wire import Connection, wait_until


def test_another_container_answers(lab: Lab) -> None:
    seen = lab.fetch("/other/a%2Fb?c=d").json()
    assert seen["line"] == "GET /a%2Fb?c=d HTTP/1.1"
    fields = seen["fields"]
    host, port = lab.address
    assert fields["host"] == f"{host}:{port}"
    assert fields["x-forwarded-host"] == f"{host}:{port}"
    assert fields["x-forwarded-port"] == str(port)
    assert fields["x-forwarded-prefix"] == "/other"
    assert fields["x-forwarded-proto"] == "http"
    assert len(fields["x-request-id"]) == 32


def test_upgraded_connection_is_a_tunnel_through_nginx_and_gateway(lab: Lab) -> None:
    with Connection(lab.address) as client:
        client.send(
            b"GET /other/x HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        for message in (b"one", b"two" * 10_000):
            client.send(message)
            got = b""
            while len(got) < len(message):
                got += client.socket.recv(65536)
            assert got == message


def test_requests_never_reach_the_session_of_an_ended_tunnel(lab: Lab) -> None:
    with Connection(lab.address) as client:
        client.send(
            b"GET /session/x HTTP/1.1\r\nHost: here\r\n"
            b"Connection: Upgrade\r\nUpgrade: session\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert client.has_closed()  # after the mount's tunnel_timeout
    # either worker may answer
    for _ in range(12):
        seen = lab.fetch("/session/login").json()
        assert seen["line"] == "GET /login HTTP/1.1"


def test_container_that_is_away_is_503_until_it_is_back(disturbed_lab: Lab) -> None:
    lab = disturbed_lab
    assert lab.compose("stop", "--timeout", "1", "other").returncode == 0
    answer = lab.fetch("/other/")
    assert (answer.status, answer["Retry-After"]) == (503, "5")
    assert lab.fetch("/echo").status == 200
    lab.up("other")
    wait_until(lambda: lab.fetch("/other/").status == 200, "it is asked again")
