"""What each setting says of itself: who applies it, and what an edit of it needs."""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.compare.inplace import find_reasons
from gateway.config.compare.plan import build_plan
from gateway.config.compare.slices import cut
from gateway.config.model import (
    AppTarget,
    Config,
    Mount,
    PoolSettings,
    ProbeSettings,
    ServerSettings,
    StaticTarget,
    UpstreamTarget,
    Watch,
    Where,
)
from gateway.config.settings import MARKS, check_marks
from gateway.errors import ConfigError
from gateway.limits import Limits, MountLimits, PoolLimits, setting
from gateway.mounts.reuse import reuse_apps
from gateway.supervisor.reload import check_fixed

OTHERS: dict[str, Any] = {
    "directory": Path("/other"),
    "venv": Path("/other"),
    "requirements": Path("/other"),
    "env_file": Path("/other"),
    "watch": Watch(),
    "probe": ProbeSettings(path="/well"),
}
# what a pool of a Config always has of its own
ABSENT = {"name", "is_behind_front"}


def change(whole: Any, changed: Field[Any]) -> Any:
    """The same with another value there."""
    value = getattr(whole, changed.name)
    if changed.name in OTHERS:
        other = OTHERS[changed.name]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + 1
    elif isinstance(value, tuple):
        other = (*value, "other")
    elif isinstance(value, dict):
        other = {**value, "OTHER": "x"}
    elif is_dataclass(value):
        [first, *_] = fields(value)
        other = change(value, first)
    else:
        other = f"{value}x"
    assert other != value
    return replace(whole, **{changed.name: other})


def make_mount(target: Any, limits: MountLimits | None = None, name: str = "/a") -> Mount:
    return Mount(
        name=name,
        host=None,
        prefix=name,
        target=target,
        limits=limits or MountLimits(),
        where=Where(line=1, column=1),
    )


def make_config(
    *mounts: Mount, server: ServerSettings | None = None, pools: tuple[PoolSettings, ...] = ()
) -> Config:
    return Config(
        source="mounts.yaml",
        directory=Path("/"),
        server=server or ServerSettings(),
        mounts=mounts,
        pools=pools,
    )


def slice_of(config: Config, name: str) -> Config:
    return cut(config, lambda pool: f"/{pool}.sock", lambda pool: ())[name]


def reasons(old: Config, new: Config) -> list[str]:
    """Of all pools."""
    names = ["main", *(pool.name for pool in old.pools)]
    return [
        reason
        for name in names
        for reason in find_reasons(slice_of(old, name), slice_of(new, name))
    ]


def settings_of(owner: type) -> Iterable[Any]:
    return [
        pytest.param(each, id=f"{owner.__name__}.{each.name}")
        for each in fields(owner)
        if "applies" in each.metadata and each.name not in ABSENT
    ]


APP = AppTarget("app:app", pool="p")
OLD = make_config(make_mount(APP), pools=(PoolSettings(name="p"),))


def expect(new: Config, applies: str) -> None:
    """Check that the edit needs what the mark says, and no more."""
    assert new != OLD
    if applies != "restart":  # which starts all workers
        assert bool(reasons(OLD, new)) == (applies == "new workers")
    lines = build_plan(OLD, new).describe()
    assert any(line.startswith("! new workers") for line in lines) == (applies == "new workers")
    assert any(line.startswith("! a restart") for line in lines) == (applies == "restart")
    assert any(line.startswith("= in place") for line in lines) == (applies == "in place")
    if applies == "restart":
        with pytest.raises(ConfigError, match="restart the gateway"):
            check_fixed(OLD, new)
    else:
        check_fixed(OLD, new)


# --- what an edit needs -----------------------------------------------------------------------


@pytest.mark.parametrize("changed", settings_of(ServerSettings))
def test_an_edit_of_the_server_needs_what_its_mark_says(changed: Field[Any]) -> None:
    expect(replace(OLD, server=change(OLD.server, changed)), changed.metadata["applies"])


@pytest.mark.parametrize("changed", settings_of(Limits))
def test_an_edit_of_a_limit_needs_what_its_mark_says(changed: Field[Any]) -> None:
    server = replace(OLD.server, limits=change(OLD.server.limits, changed))
    expect(replace(OLD, server=server), changed.metadata["applies"])


@pytest.mark.parametrize("changed", settings_of(PoolLimits))
def test_an_edit_of_when_workers_are_replaced_needs_what_its_mark_says(changed: Field[Any]) -> None:
    server = replace(OLD.server, pool_limits=change(OLD.server.pool_limits, changed))
    expect(replace(OLD, server=server), changed.metadata["applies"])


@pytest.mark.parametrize("changed", settings_of(PoolSettings))
def test_an_edit_of_a_pool_needs_what_its_mark_says(changed: Field[Any]) -> None:
    expect(replace(OLD, pools=(change(OLD.pools[0], changed),)), changed.metadata["applies"])


@pytest.mark.parametrize("changed", settings_of(MountLimits))
def test_an_edit_of_a_mount_needs_what_its_mark_says(changed: Field[Any]) -> None:
    mount = make_mount(APP, change(MountLimits(), changed))
    expect(replace(OLD, mounts=(mount,)), changed.metadata["applies"])


@pytest.mark.parametrize("changed", settings_of(AppTarget))
def test_an_edit_of_an_app_needs_what_its_mark_says(changed: Field[Any]) -> None:
    if changed.name == "pool":
        target, pools = replace(APP, pool="q"), (PoolSettings(name="p"), PoolSettings(name="q"))
        new = replace(OLD, mounts=(make_mount(target),), pools=pools)
        [*_, import_reason] = build_plan(replace(OLD, pools=pools), new).describe()
        assert import_reason == "! new workers of q: app:app has to be imported"
    else:
        new = replace(OLD, mounts=(make_mount(change(APP, changed)),))
        expect(new, changed.metadata["applies"])


@dataclass(frozen=True)
class ScratchTarget(AppTarget):
    """An app that is loaded with one more setting."""

    config_file: str = setting("", "For this test.", reads="text", applies="new workers")
    colour: str = setting("", "For this test.", reads="text", applies="in place")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"colour": "red"}, []),
        ({}, {"config_file": "one"}, ["app:app has to be imported again: config_file changes"]),
        ({"config_file": "one"}, {"config_file": "one"}, []),
    ],
)
def test_a_further_setting_of_an_app_counts(old: Any, new: Any, expected: list[str]) -> None:
    before = make_config(make_mount(ScratchTarget("app:app", **old)))
    after = make_config(make_mount(ScratchTarget("app:app", **new)))
    assert reasons(before, after) == expected


def test_an_app_is_reused_for_what_it_was_loaded_with_only() -> None:
    one, two = (ScratchTarget("app:app", config_file=name) for name in ("one", "two"))
    running = [make_mount(one, name="/one"), make_mount(two, name="/two")]
    apps: Any = {"/one": object(), "/two": object()}
    moved = [make_mount(two, name="/one"), make_mount(one, name="/three")]
    found = reuse_apps(running, apps, moved)
    assert found == {"/one": apps["/two"], "/three": apps["/one"]}


# --- front and pool ---------------------------------------------------------------------------


@pytest.mark.parametrize("changed", settings_of(MountLimits))
def test_a_setting_of_a_mount_is_where_its_mark_says(changed: Field[Any]) -> None:
    limits = change(MountLimits(), changed)
    config = replace(OLD, mounts=(make_mount(APP, limits),))
    for name, others in (("main", "pool"), ("p", "front")):
        [mount] = slice_of(config, name).mounts
        is_there = changed.metadata["where"] != others
        expected = limits if is_there else MountLimits()
        assert getattr(mount.limits, changed.name) == getattr(expected, changed.name), name


@pytest.mark.parametrize("changed", settings_of(MountLimits))
@pytest.mark.parametrize(
    "target", [AppTarget("app:app"), StaticTarget(Path("/")), UpstreamTarget(("http://a:80",))]
)
def test_mounts_of_front_workers_have_every_setting(target: Any, changed: Field[Any]) -> None:
    limits = change(MountLimits(), changed)
    [mount] = slice_of(make_config(make_mount(target, limits)), "main").mounts
    assert mount.limits == limits


@dataclass(frozen=True)
class ScratchLimits(MountLimits):
    """Each mark once."""

    of_front: str = setting("", "For this test.", reads="text", applies="in place", where="front")
    of_pool: str = setting("", "For this test.", reads="text", applies="in place", where="pool")
    of_both: str = setting("", "For this test.", reads="text", applies="in place", where="both")


def test_what_others_apply_is_not_seen() -> None:
    limits = ScratchLimits(of_front="x", of_pool="x", of_both="x")
    config = replace(OLD, mounts=(make_mount(APP, limits),))
    [front], [pool] = (slice_of(config, name).mounts for name in ("main", "p"))
    assert front.limits == ScratchLimits(of_front="x", of_both="x")
    assert pool.limits == ScratchLimits(of_pool="x", of_both="x")


# --- no field without its marks ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ({"where": "front"}, 'applies="in place" or applies="new workers" or applies="restart"'),
        ({"applies": "in place"}, 'where="front" or where="pool" or where="both"'),
        ({"applies": "in place", "where": "back"}, 'where="front" or where="pool" or where="both"'),
    ],
)
def test_a_setting_without_its_marks_is_refused_with_what_to_write(
    more: dict[str, str], written: str
) -> None:
    @dataclass(frozen=True)
    class Unmarked(MountLimits):
        speed: int = setting(1, "For this test.", **more)

    with pytest.raises(TypeError) as raised:
        check_marks(Unmarked, MARKS[MountLimits])
    assert str(raised.value) == f"Unmarked.speed: write {written} (limits.setting)"


def test_a_field_that_is_no_setting_needs_a_mark_unless_nothing_compares_it() -> None:
    @dataclass(frozen=True)
    class Internal(PoolSettings):
        line: int = field(default=0, compare=False)

    @dataclass(frozen=True)
    class Forgotten(PoolSettings):
        extra: int = 0

    check_marks(Internal, MARKS[PoolSettings])
    with pytest.raises(TypeError, match=r"Forgotten\.extra: write applies="):
        check_marks(Forgotten, MARKS[PoolSettings])


@pytest.mark.parametrize("owner", MARKS)
def test_every_setting_has_its_marks(owner: type) -> None:
    check_marks(owner, MARKS[owner])
