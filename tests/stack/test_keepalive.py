"""Connections that are kept: the client's to nginx, and nginx's to the gateway."""

from stacks import Lab
from wire import Connection, build_request

CONNECTED = "03"


def gateway_connections(lab: Lab) -> set[str]:
    """nginx's connections to the gateway, by inode (proc_net_unix in proc(5)): both their ends are
    of the network namespace of who has connected."""
    lines = [line.split() for line in lab.run_in("nginx", "cat", "/proc/net/unix").out.splitlines()]
    return {
        line[6] for line in lines if line[-1] == "/run/http/gateway.sock" and line[5] == CONNECTED
    }


def test_nginx_keeps_its_connections_to_the_gateway(lab: Lab):
    assert lab.fetch("/echo").status == 200
    before = gateway_connections(lab)
    for _ in range(100):
        assert lab.fetch("/echo").status == 200
    kept = gateway_connections(lab)
    assert kept & before
    assert len(kept - before) < 20


def test_a_client_may_ask_again_on_its_connection(lab: Lab):
    with Connection(lab.address) as client:
        for number in range(50):
            assert client.ask(f"/echo/{number}").json()["path_info"] == f"/{number}"


def test_pipelined_requests_are_answered_in_order(lab: Lab):
    with Connection(lab.address) as client:
        content = b"between the requests"
        for number in range(20):
            client.send(build_request("here", f"/echo/{number}", "POST", content=content))
        for number in range(20):
            seen = client.read_answer().json()
            assert (seen["path_info"], seen["content"]) == (f"/{number}", content.decode())


def test_a_connection_serves_on_after_a_request_without_an_answer_of_an_app(lab: Lab):
    with Connection(lab.address) as client:
        for target, status in [("/nothing", 404), ("/broken", 503), ("/fails", 500)]:
            assert client.ask(target, "POST", content=b"x" * 100).status == status
            assert client.ask("/echo").status == 200


def test_a_request_may_arrive_byte_by_byte(lab: Lab):
    with Connection(lab.address) as client:
        for byte in build_request("here", "/echo/slowly", "POST", content=b"abc"):
            client.send(bytes([byte]))
        assert client.read_answer().json()["content"] == "abc"
