"""Which app answers which path, and what it is told of that path, through nginx."""

import pytest
from stacks import Example, Lab


@pytest.mark.parametrize(
    ("target", "sign"),
    [
        ("/", "Your apps are up."),
        ("/notes/", "Notes"),
        ("/polls/", "Polls"),
        ("/events/", "stream"),
        ("/files/", "<html"),
    ],
)
def test_each_example_app_answers_under_its_prefix(example: Example, target, sign):
    answer = example.fetch(target)
    assert answer.status == 200
    assert answer["Content-Type"].startswith("text/html")
    assert sign in answer.text


@pytest.mark.parametrize("mount", ["/notes", "/polls", "/events", "/files"])
def test_a_prefix_without_its_slash_leads_to_the_page(example: Example, mount):
    answer = example.fetch(mount)
    if answer.status != 200:
        assert answer.status in (301, 302, 308)
        assert answer["Location"] in (f"{mount}/", f"{example.url}{mount}/")


@pytest.mark.parametrize("target", ["/notesbook", "/nothing/here", "/files/nothing", "/events/no"])
def test_what_nothing_answers_is_404(example: Example, target):
    assert example.fetch(target).status == 404


def test_a_redirect_mount_keeps_the_rest_of_the_path_and_the_query(example: Example):
    answer = example.fetch("/old/3?a=b")
    assert answer.status == 308
    assert answer["Location"] in ("/notes/3?a=b", f"{example.url}/notes/3?a=b")


def test_the_first_page_links_every_mount(example: Example):
    page = example.fetch("/").text
    for mount in ("/", "/notes", "/polls", "/events", "/files", "/old", "/legacy", "/talk"):
        assert f'href="{mount}"' in page
    assert "failing" not in page


@pytest.mark.parametrize(
    ("target", "script_name", "path_info"),
    [
        ("/echo", "/echo", ""),
        ("/echo/", "/echo", "/"),
        ("/echo/a/b", "/echo", "/a/b"),
        ("/echo/deeper/a", "/echo/deeper", "/a"),
        ("/echo/deeperer", "/echo", "/deeperer"),
        # an encoded slash is data: it neither ends a prefix nor begins a segment
        ("/echo/a%2Fb", "/echo", "/a/b"),
        ("/echo/deeper%2fa", "/echo", "/deeper/a"),
        ("/echo/a%2F..%2Fb", "/echo", "/a/../b"),
        # dot segments are resolved before a mount is looked for, encoded or not
        ("/nothing/../echo/a", "/echo", "/a"),
        ("/echo/./a/../b", "/echo", "/b"),
        ("/echo/deeper/%2e%2E/a", "/echo", "/a"),
        ("/echo/a/..", "/echo", "/"),
        ("/echo//a///b", "/echo", "//a///b"),
        ("/echo/%61%20b", "/echo", "/a b"),
        ("/%65cho/a", "/echo", "/a"),
        # bytes dressed as latin-1 (PEP 3333)
        ("/caf%C3%A9/%C3%A9", "/caf\xc3\xa9", "/\xc3\xa9"),
        ("/echo/%FF", "/echo", "/\xff"),
        ("/echo/a;b=c,d", "/echo", "/a;b=c,d"),
    ],
)
def test_prefix_and_rest_reach_the_app_as_pep_3333_wants(lab: Lab, target, script_name, path_info):
    answer = lab.fetch(f"{target}?q=%2F+1")
    assert answer.status == 200, answer
    seen = answer.json()
    assert (seen["script_name"], seen["path_info"]) == (script_name, path_info)
    assert seen["query"] == "q=%2F+1"
    assert seen["uri"] == f"{target}?q=%2F+1"


@pytest.mark.parametrize("target", ["/", "/echoes", "/echo%2Fa", "//echo", "/echo/../x", "/Echo"])
def test_a_prefix_is_matched_on_whole_segments_only(lab: Lab, target):
    assert lab.fetch(target).status == 404


def test_a_host_has_mounts_of_its_own(lab: Lab):
    other = lab.fetch("/echo/only/x", "GET", ("Host", "Other.Example:81")).json()
    assert (other["script_name"], other["path_info"]) == ("/echo/only", "/x")
    any_host = lab.fetch("/echo/only/x").json()
    assert (any_host["script_name"], any_host["path_info"]) == ("/echo", "/only/x")


def test_methods_and_content_reach_the_app(lab: Lab):
    for method in ("PUT", "PATCH", "DELETE", "PROPFIND"):
        seen = lab.fetch("/echo", method, content=b"\0\xff\r\n").json()
        assert (seen["method"], seen["content"]) == (method, "\0\xff\r\n")


def test_head_has_the_fields_of_get_and_no_content(lab: Lab):
    head, get = lab.fetch("/download?1", "HEAD"), lab.fetch("/download?1")
    assert (head.status, head.content) == (200, b"")
    assert len(get.content) == 64
    differing = {"Date", "X-Request-ID", "Transfer-Encoding"}
    assert {f for f in head.fields if f[0] not in differing} == {
        f for f in get.fields if f[0] not in differing
    }
