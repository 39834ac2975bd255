"""Response fields by which an app could command nginx: none leads elsewhere, slows or relabels."""

import pytest
from stacks import Lab
from wire import Connection, build_request

LIMIT = 16  # bytes a second; less than any head


@pytest.mark.parametrize("target", ["/echo", "/.gateway/away.html", "/fielded", "@other"])
def test_an_app_cannot_have_another_targets_answer_sent_in_its_place(lab: Lab, target: str) -> None:
    answer = lab.fetch(f"/fielded?X-Accel-Redirect={target}")
    assert (answer.status, answer.content) == (200, b"fine\n")
    # nginx keeps these fields from clients
    assert answer["X-Accel-Redirect"] == ""


def test_an_app_does_not_set_the_charset_through_nginx(lab: Lab) -> None:
    # utf-8, since nginx adds only those that its own files name
    assert lab.fetch("/fielded?X-Accel-Charset=utf-8")["Content-Type"] == "text/plain"
    assert lab.fetch("/fielded")["Content-Type"] == "text/plain"


@pytest.mark.parametrize("query", ["", f"&X-Accel-Limit-Rate={LIMIT}"])
def test_an_app_does_not_slow_its_answer_through_nginx(lab: Lab, query: str) -> None:
    with Connection(lab.address) as client:
        # nginx limits only what it buffers
        client.send(build_request(client.host, f"/fielded?X-Accel-Buffering=yes{query}"))
        assert len(client.socket.recv(65536)) > 4 * LIMIT
