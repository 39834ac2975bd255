"""What an edit would change, told before it is made."""

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.compare.plan import build_plan, compare_fields, find_moved
from gateway.config.model import (
    AppTarget,
    Config,
    Mount,
    PoolSettings,
    ProbeSettings,
    RedirectTarget,
    ServerSettings,
    StaticTarget,
    Target,
    UpstreamTarget,
    Watch,
    Where,
    Workers,
)
from gateway.config.settings import EVERY_MOUNT, POOL, SERVER, settings_of
from gateway.http.dispatch import LoadedMount, MountTable
from gateway.limits import Limits, MountLimits, PoolLimits

IN_PLACE = "= in place: no code is loaded again"
WATCH, WORKERS = settings_of(Watch), settings_of(Workers)
APP = AppTarget(import_string="app:app")


def mount(name: str, target: Target = APP, *, line: int = 1, **limits: float) -> Mount:
    host, _, path = name.partition("/")
    return Mount(
        name=name,
        host=host or None,
        prefix=f"/{path}" if path else "",
        target=target,
        limits=MountLimits(**limits),  # type: ignore[arg-type]
        where=Where(line=line, column=1),
    )


def config(*mounts: Mount, server: ServerSettings | None = None) -> Config:
    return Config(
        source="mounts.yaml", directory=Path("/"), server=server or ServerSettings(), mounts=mounts
    )


def lines(old: Config, new: Config) -> list[str]:
    """What is told, but for how it will be served."""
    return [line for line in build_plan(old, new).describe() if line[0] not in "!="]


def moved(old: Iterable[str], new: Iterable[str]) -> list[tuple[str, str, str]]:
    return list(find_moved([mount(name) for name in old], [mount(name) for name in new]))


# --- settings ---------------------------------------------------------------------------------


def test_another_place_in_the_file_is_no_change() -> None:
    old = config(mount("/a", line=1), mount("/b", line=2))
    new = config(mount("/b", line=7), mount("/a", line=9))
    assert not build_plan(old, new)
    assert lines(old, new) == []


def test_mounts_that_come_and_go() -> None:
    plan = build_plan(config(mount("/a"), mount("/b")), config(mount("/b"), mount("/c")))
    assert plan
    assert plan.describe() == ["+ /c", "- /a", IN_PLACE]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (mount("/a"), mount("/a", timeout_seconds=5), "timeout 30s -> 5s"),
        (
            mount("/a"),
            mount("/a", AppTarget(import_string="b:app")),
            "app app:app -> b:app",
        ),
        (
            mount("/a"),
            mount("/a", RedirectTarget(location="/b")),
            "target app app:app -> redirect /b",
        ),
        (
            mount("/a", StaticTarget(directory=Path("/x"))),
            mount("/a", StaticTarget(directory=Path("/x"), cache_seconds=60)),
            "cache 0 -> 1m",
        ),
        (
            mount("/a"),
            mount("/a", UpstreamTarget(addresses=("http://b:80",))),
            "target app app:app -> upstream [http://b:80]",
        ),
        (
            mount("/a", UpstreamTarget(addresses=("http://b:80",))),
            mount("/a", UpstreamTarget(addresses=("http://b:80", "unix:/c"))),
            "upstream [http://b:80] -> [http://b:80, unix:/c]",
        ),
    ],
)
def test_a_setting_of_a_mount(old: Mount, new: Mount, told: str) -> None:
    assert lines(config(old), config(new)) == [f"~ /a: {told}"]


def test_the_value_of_a_variable_is_never_told() -> None:
    old = mount("/a", AppTarget(import_string="a:a", env={"KEY": "wombat", "B": "1", "SAME": "x"}))
    new = mount("/a", AppTarget(import_string="a:a", env={"KEY": "quokka", "C": "2", "SAME": "x"}))
    assert lines(config(old), config(new)) == [
        "~ /a: env.B",
        "~ /a: env.C",
        "~ /a: env.KEY",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (ServerSettings(), ServerSettings(watch=Watch()), "watch none -> {}"),
        (
            ServerSettings(watch=Watch(for_seconds=5.0)),
            ServerSettings(watch=Watch(max_error_rate=0.5)),
            "watch.for 5s -> 30s|watch.max_error_rate 5% -> 50%",
        ),
        (ServerSettings(), ServerSettings(user="www"), "user none -> www"),
        (ServerSettings(), ServerSettings(reload_on_edit=False), "reload_on_edit true -> false"),
        (
            ServerSettings(),
            ServerSettings(trusted_proxies=("unix:",)),
            "trusted_proxies [] -> [unix:]",
        ),
        (
            ServerSettings(),
            ServerSettings(limits=Limits(max_head_bytes=2**20)),
            "max_head 32KiB -> 1MiB",
        ),
    ],
)
def test_settings_are_told_in_the_words_of_the_table(
    old: ServerSettings, new: ServerSettings, told: str
) -> None:
    changes = lines(config(mount("/a"), server=old), config(mount("/a"), server=new))
    assert changes == [f"~ server: {each}" for each in told.split("|")]


def test_a_section_of_a_mount_is_told_in_the_words_of_the_table() -> None:
    probe = ProbeSettings(path="/well", within_seconds=0.5)
    old, new = mount("/a"), mount("/a", replace(APP, probe=probe))
    assert lines(config(old), config(new)) == [
        "~ /a: probe none -> {path: /well, within: 500ms}",
    ]


def test_every_key_that_a_plan_names_is_one_of_the_table() -> None:
    """Whatever field of the model changes."""
    keys = {key for known in (SERVER, POOL, EVERY_MOUNT, WATCH, WORKERS) for key in known}
    for owner in (ServerSettings, Limits, PoolLimits, MountLimits, Watch, Workers, UpstreamTarget):
        whole = owner(addresses=()) if owner is UpstreamTarget else owner()
        for field in fields(whole):
            value = getattr(whole, field.name)
            other = value + 1 if isinstance(value, int | float) else ("/other",)
            for change in compare_fields(whole, replace(whole, **{field.name: other})):
                assert set(change.key.split(".")) <= keys


def test_settings_of_the_server_and_its_limits() -> None:
    server = ServerSettings(workers=5, limits=replace(Limits(), keep_alive_seconds=90.0))
    assert lines(config(mount("/a")), config(mount("/a"), server=server)) == [
        "~ server: workers 2 -> 5",
        "~ server: keep_alive 75s -> 90s",
    ]


# --- who answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["/wiki"], ["/wiki", "/wiki/api"], [("/wiki/api", "/wiki", "/wiki/api")]),
        (["/wiki", "/wiki/api"], ["/wiki"], [("/wiki/api", "/wiki/api", "/wiki")]),
        (["/"], ["/", "/a"], [("/a", "/", "/a")]),
        (["/a"], ["/b"], []),  # nobody answered, or nobody will
        (["/a"], ["/a", "/ab"], []),  # no part of it
        (["/", "/a", "/a/b"], ["/"], [("/a", "/a", "/"), ("/a/b", "/a/b", "/")]),
        (["/", "/a/b"], ["/", "/a"], [("/a", "/", "/a"), ("/a/b", "/a/b", "/a")]),
        # at a host
        (["/"], ["/", "x.org/"], [("x.org", "/", "x.org/")]),
        (["/", "x.org/"], ["/"], [("x.org", "x.org/", "/")]),
        (
            ["/", "/notes"],
            ["/", "/notes", "x.org/"],
            [("x.org", "/", "x.org/"), ("x.org/notes", "/notes", "x.org/")],
        ),
        (["/", "x.org/a"], ["/", "/b", "x.org/a"], [("/b", "/", "/b")]),
        (["x.org/", "/"], ["x.org/", "/", "/b"], [("/b", "/", "/b")]),
    ],
)
def test_urls_that_change_their_owner(
    old: list[str], new: list[str], expected: list[tuple[str, str, str]]
) -> None:
    assert moved(old, new) == expected


def test_a_move_as_a_person_reads_it() -> None:
    old, new = config(mount("/wiki")), config(mount("/wiki"), mount("/wiki/api"))
    assert lines(old, new) == ["+ /wiki/api", "> /wiki/api/* moves from /wiki to /wiki/api"]


PATHS = ["/", "/a", "/a/b", "/a/b/c", "/b", "/b/a", "/ab"]
TABLES = st.sets(
    st.tuples(st.sampled_from(["", "x.org", "y.org"]), st.sampled_from(PATHS)).map("".join)
)


def owners(names: Iterable[str]) -> dict[tuple[str, str], str]:
    """Who answers where, asked of the dispatcher itself."""
    table = MountTable(
        LoadedMount(name=m.name, host=m.host, prefix=m.prefix, app=lambda *_: [], limits=m.limits)
        for m in map(mount, names)
    )
    found = {(h, p): table.match(h, p) for h in ("z.org", "x.org", "y.org") for p in PATHS}
    return {place: match[0].name for place, match in found.items() if match}


@given(TABLES, TABLES)
def test_moves_are_those_of_the_dispatcher(old: set[str], new: set[str]) -> None:
    before, after = owners(old), owners(new)
    told = moved(old, new)
    for (host, path), was in before.items():
        will_be = after.get((host, path), was)
        reasons = [
            place
            for place, one, other in told
            if (one, other) == (was, will_be)
            and f"{host if not place.startswith('/') and place else ''}{path}/".startswith(
                f"{place}/"
            )
        ]
        assert bool(reasons) == (was != will_be)


# --- whether new workers start ----------------------------------------------------------------


def reasons(old: Config, new: Config) -> list[str]:
    return [line for line in build_plan(old, new).describe() if line[0] in "!="]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("a:app", "a:app", []),
        ("a:app", "b:app", ["! new workers: b:app has to be imported"]),
        ("a:app", "a:create()", ["! new workers: a:create() has to be imported"]),
    ],
)
def test_an_import_takes_new_workers(old: str, new: str, told: list[str]) -> None:
    configs = [config(mount("/a", AppTarget(import_string=name))) for name in (old, new)]
    assert reasons(*configs) == told


def test_a_factory_is_called_once_for_each_mount() -> None:
    made = AppTarget(import_string="a:create()")
    one, two = config(mount("/a", made)), config(mount("/a", made), mount("/b", made))
    assert reasons(one, two) == ["! new workers: a:create() has to be called"]
    assert reasons(two, one) == [IN_PLACE]


def test_a_pool_that_changes_alone_gets_new_workers() -> None:
    def table(**settings: Any) -> Config:
        pool = PoolSettings(name="shop", where=Where(line=len(settings), column=1), **settings)
        target = AppTarget(import_string="a:app", pool="shop")
        return replace(config(mount("/a", target), mount("/b")), pools=(pool,))

    plain, nice = table(), table(nice=5)
    assert build_plan(plain, nice).describe() == [
        "~ pools.shop: nice 0 -> 5",
        "! new workers of shop: pools.shop.nice changes",
    ]
    assert build_plan(plain, table(idle_seconds=60.0)).describe() == [
        "~ pools.shop: idle 0 -> 1m",
        IN_PLACE,
    ]
    alone = config(mount("/a", AppTarget(import_string="a:app")), mount("/b"))
    assert build_plan(alone, plain).describe() == [
        "+ pool shop",
        "~ /a: pool main -> shop",
        "! new workers of shop: the pool is new",
    ]
    assert build_plan(plain, alone).describe() == [
        "- pool shop",
        "~ /a: pool shop -> main",
        "! new workers: a:app has to be imported",
    ]
