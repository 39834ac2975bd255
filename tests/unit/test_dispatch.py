"""MountTable: which mount answers, and how the path is split."""

import random

import pytest

from gateway.errors import MalformedRequest
from gateway.http.dispatch import ENCODED_SLASH, LoadedMount, MountTable, resolve_path
from gateway.limits import MountLimits

LIMITS = MountLimits()


def build(*keys: str) -> MountTable:
    """Mounts by key, ``/prefix`` or ``host/prefix``."""
    return MountTable(
        LoadedMount(
            name=key,
            host=key.partition("/")[0] or None,
            prefix=("/" + key.partition("/")[2]).rstrip("/"),
            app=lambda *_: [],
            limits=LIMITS,
        )
        for key in keys
    )


def match(table: MountTable, path: str, host: str = "example.com") -> tuple[str, str, str] | None:
    """Name, SCRIPT_NAME and PATH_INFO."""
    found = table.match(host, path)
    return found and (found[0].name, found[0].script_name, found[1])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", ("/", "", "/")),
        ("/a", ("/", "", "/a")),
        ("/shop", ("/shop", "/shop", "")),
        ("/shop/", ("/shop", "/shop", "/")),
        ("/shop/a/b", ("/shop", "/shop", "/a/b")),
        ("/shop/admin", ("/shop/admin", "/shop/admin", "")),
        ("/shop/admin/x/y/z", ("/shop/admin", "/shop/admin", "/x/y/z")),
        # a prefix ends at a segment
        ("/shopping", ("/", "", "/shopping")),
        ("/sho", ("/", "", "/sho")),
        ("/shop/administrator", ("/shop", "/shop", "/administrator")),
        ("/SHOP", ("/", "", "/SHOP")),
        ("/shop;a", ("/", "", "/shop;a")),
        # empty segments are segments
        ("//shop", ("/", "", "//shop")),
        ("/shop//admin", ("/shop", "/shop", "//admin")),
        ("/shop//", ("/shop", "/shop", "//")),
        # a mount two levels below one that is none
        ("/a/b/c", ("/a/b/c", "/a/b/c", "")),
        ("/a/b/d", ("/", "", "/a/b/d")),
        # UTF-8, as it is sent
        ("/caf%C3%A9/x", ("/café", "/caf\xc3\xa9", "/x")),
        ("/caf%E9/x", ("/", "", "/caf\xe9/x")),
    ],
)
def test_the_longest_prefix_wins_at_a_segment_boundary(
    path: str, expected: tuple[str, str, str]
) -> None:
    table = build("/", "/shop", "/shop/admin", "/a/b/c", "/café")
    assert match(table, path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/../shop/x", ("/shop", "/shop", "/x")),
        ("/a/%2e%2E/shop/x", ("/shop", "/shop", "/x")),
        ("/./shop", ("/shop", "/shop", "")),
        ("/shop/..", ("/", "", "/")),
        ("/shop/../..", ("/", "", "/")),
        ("/shop/../../shop", ("/shop", "/shop", "")),
        ("/shop/.", ("/shop", "/shop", "/")),
        ("/shop/x/..", ("/shop", "/shop", "/")),
        ("/shop/...", ("/shop", "/shop", "/...")),
        ("/shop/.x", ("/shop", "/shop", "/.x")),
        ("/shop/x.", ("/shop", "/shop", "/x.")),
        ("/shop/..x", ("/shop", "/shop", "/..x")),
        ("/%73hop/x", ("/shop", "/shop", "/x")),
        ("/shop%3Fa", ("/", "", "/shop?a")),
        # an encoded slash is data: no separator, no end of a prefix
        ("/shop%2Fx", ("/", "", "/shop/x")),
        ("/shop%2fx", ("/", "", "/shop/x")),
        ("/shop/a%2fb", ("/shop", "/shop", "/a/b")),
        ("/shop/..%2F..", ("/shop", "/shop", "/../..")),
        ("/shop/..%2f../x", ("/shop", "/shop", "/../../x")),
        ("/a%2F../shop", ("/", "", "/a/../shop")),
        ("/x%2F..%2Fshop", ("/", "", "/x/../shop")),
        # decoded once
        ("/%2573hop", ("/", "", "/%73hop")),
        ("/shop/%252e%252e/", ("/shop", "/shop", "/%2e%2e/")),
    ],
)
def test_a_path_is_resolved_before_it_is_matched(path: str, expected: tuple[str, str, str]) -> None:
    assert match(build("/", "/shop"), path) == expected


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("shop.example", "/", "shop.example/"),
        ("shop.example", "/admin/x", "shop.example/admin"),
        ("shop.example", "/help", "/help"),  # named for any host alone
        ("shop.example", "/both", "shop.example/both"),
        ("bare.example", "/x", "/"),
        ("bare.example", "/only", "bare.example/only"),
        ("www.shop.example", "/admin", "/"),
        ("", "/both", "/both"),
    ],
)
def test_a_host_comes_before_any_host(host: str, path: str, name: str) -> None:
    own = ["shop.example/admin", "shop.example/both", "bare.example/only"]
    table = build("/", "/help", "/both", *own)
    rooted = build("/", "/both", "shop.example/", *own)
    found = match(rooted if name == "shop.example/" else table, path, host)
    assert found is not None
    assert found[0] == name


def test_a_host_with_a_root_leaves_nothing_to_any_host() -> None:
    found = match(build("/help", "shop.example/"), "/help", "shop.example")
    assert found == ("shop.example/", "", "/help")


@pytest.mark.parametrize("path", ["/", "/b", "/ab", "/a/../b"])
def test_nothing_is_mounted_there(path: str) -> None:
    assert match(build("/a", "other.example/"), path) is None
    assert match(build("/a"), "/a") == ("/a", "/a", "")


def test_an_empty_table_matches_nothing() -> None:
    assert match(build(), "/") is None


@pytest.mark.parametrize("keys", [("/",), ("/", "/a/b"), ("example.com/",)])
def test_the_server_in_general_is_no_mount(keys: tuple[str, ...]) -> None:
    assert match(build(*keys), "*") is None


@pytest.mark.parametrize("path", ["/%zz", "/%", "/%4", "/%4/", "/a%", "/%%35", "/%00", "/a%00b/.."])
def test_a_bad_escape_is_refused(path: str) -> None:
    with pytest.raises(MalformedRequest):
        build("/").match("", path)


@pytest.mark.parametrize("path", ["/%25", "/%01", "/%7f%ff", "/%2500", "/%aA"])
def test_other_escapes_are_not(path: str) -> None:
    assert match(build("/"), path) is not None


def test_a_character_for_encoded_slashes_is_not_in_a_path() -> None:
    path = "".join(map(chr, range(256)))
    assert ENCODED_SLASH not in path
    assert ENCODED_SLASH.encode().decode("latin-1") in resolve_path("/%E2%88%95")[0]


def reference(path: str) -> str:
    """RFC 3986 §5.2.4, word for word."""
    output = ""
    while path:
        if path.startswith("../"):
            path = path[3:]
        elif path.startswith(("./", "/./")):
            path = path[2:]
        elif path == "/.":
            path = "/"
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            output = output.rpartition("/")[0]
        elif path in (".", ".."):
            path = ""
        else:
            end = path.find("/", 1)
            end = len(path) if end < 0 else end
            output, path = output + path[:end], path[end:]
    return output


def test_dot_segments_are_removed_as_rfc_3986_says() -> None:
    generator = random.Random(3986)
    for _ in range(5000):
        parts = generator.choices(["..", ".", "", "a", "b", "...", ".a"], k=generator.randint(1, 7))
        path = "/" + "/".join(parts)
        assert resolve_path(path) == (reference(path), reference(path))


@pytest.mark.parametrize(
    ("path", "raw_path_info"),
    [
        ("/shop", ""),
        ("/shop/", "/"),
        ("/shop/a%2Fb%2fc", "/a%2Fb%2fc"),
        ("/%73hop/%7Ex/%e9%25", "/%7Ex/%e9%25"),
        ("/x/../shop/./a%20b", "/a%20b"),
        ("/shop/b/%2e%2E/a", "/a"),
        ("/shop/./..%2fadmin", "/..%2fadmin"),
        ("/shop/%2e/%2e%2e%2fadmin", "/%2e%2e%2fadmin"),
        ("/shop/a/..", "/"),
        ("/shop//a//", "//a//"),
        # what may not stand bare
        ('/shop/..\\a"<\xe9', "/..%5Ca%22%3C%E9"),
        ("/shop/a;b=c,d!$&'()*+@:~", "/a;b=c,d!$&'()*+@:~"),
    ],
)
def test_what_the_client_encoded_stays_so_below_the_mount(path: str, raw_path_info: str) -> None:
    found = build("/", "/shop").match("", path)
    assert found is not None
    assert (found.mount.name, found.raw_path_info) == ("/shop", raw_path_info)


def test_every_mount_of_many_is_found() -> None:
    keys = [f"/{a}" for a in range(30)] + [f"/{a}/{b}" for a in range(30) for b in range(30)]
    table = build(*keys)
    for key in keys:
        assert match(table, key) == (key, key, "")
        assert match(table, f"{key}/x/y") == (key, key, "/x/y")
        assert match(table, f"/x{key}") is None
