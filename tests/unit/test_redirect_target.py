"""A redirect of the table to a WSGI callable: what the one lets through, the other can be."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.model import Mount, RedirectTarget, Where
from gateway.config.text.problems import BadValueError
from gateway.config.values.paths import parse_location
from gateway.errors import AppLoadError
from gateway.limits import MountLimits
from gateway.mounts.loader import Unavailable, describe_cause, load_mounts, load_target
from gateway.mounts.redirect import Redirect


def redirect_mount(name: str, location: str) -> Mount:
    return Mount(
        name=name,
        host=None,
        prefix=name,
        target=RedirectTarget(location=location),
        limits=MountLimits(),
        where=Where(line=1, column=1),
    )


def test_redirect_that_cannot_be_one_is_unavailable_alone() -> None:
    good, bad = redirect_mount("/a", "http://[::1]/x"), redirect_mount("/b", "http://[::1]<>/x")
    loaded, errors = load_mounts([good, bad])
    assert isinstance(loaded[0].app, Redirect)
    assert isinstance(loaded[1].app, Unavailable)
    assert list(errors) == ["/b"]
    assert re.match("the redirect: expected a path .*<>/x'$", str(errors["/b"]))
    assert describe_cause(errors["/b"]) == ""


PIECES = [
    "http://",
    "https://",
    "a.example",
    "[::1]",
    "[",
    "]",
    ":",
    "80",
    "/",
    "x",
    "@",
    "%41",
    ".",
]


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=8))
def test_location_that_the_table_may_have_can_be_loaded(text: str) -> None:
    try:
        location = parse_location(text)
    except BadValueError:
        return
    try:
        assert load_target(RedirectTarget(location=location))[1] == "redirect"
    except AppLoadError as error:
        pytest.fail(f"{text!r} is a good value, and yet: {error}")
