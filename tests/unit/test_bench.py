"""The requests of the benchmarks are what their tables say of them."""

import importlib.util
import random
import re
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("heads", ROOT / "tests" / "bench" / "heads.py")
heads = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(heads)


def requests(kind):
    return list(islice(kind(random.Random(1)), 500))


def names(request):
    """Of its header lines, in their order."""
    head = request.partition("\n\n")[0]
    return [line.partition(":")[0] for line in head.split("\n")[1:]]


@pytest.mark.parametrize("kind", [heads.browser, heads.proxied, heads.balanced, heads.form])
def test_no_two_requests_are_alike(kind):
    made = requests(kind)
    for pattern in (r".*", r"(?s).*?\nReferer: (.*?)\n", r"(?s).*?\nCookie: (.*?)\n"):
        assert len({re.match(pattern, request)[0] for request in made}) == len(made)


def test_a_browser_sends_12_to_17_lines_and_200_bytes_of_cookies():
    made = requests(heads.browser)
    assert {len(names(request)) for request in made} == {12, 14, 17}
    cookies = [re.search(r"\nCookie: (.*)\n", request)[1] for request in made]
    assert {len(cookie) for cookie in cookies} == {200}


def test_a_forwarded_request_has_the_fields_that_the_stacks_nginx_sets_in_its_order():
    config = (ROOT / "nginx" / "server.conf").read_text()
    lines = re.findall(r'^ *proxy_set_header (\S+) (?!"")(\S+);', config, re.MULTILINE)
    # empty unless the client asks for another protocol
    expected = [
        name for name, value in lines if not value.endswith(("upgrade_connection", "upgrade"))
    ]
    for request in requests(heads.proxied):
        assert names(request)[: len(expected)] == expected
        assert not {"Connection", "Keep-Alive"} & {*names(request)}


def test_forwarded_requests_have_clients_and_ids_of_their_own():
    made = requests(heads.proxied)
    for field in ("X-Forwarded-For", "X-Request-ID", "X-Real-IP"):
        assert len({re.search(rf"\n{field}: (.*)\n", request)[1] for request in made}) == len(made)


def test_a_form_has_the_content_that_its_head_announces():
    for request in requests(heads.form):
        head, _, content = request.partition("\n\n")
        assert len(content) == int(re.search(r"\nContent-Length: (\d+)", head)[1]) == 1024
