"""What wraps a mount's app: each layer once, in one order, and nothing where nothing is needed."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness import wait_until
from test_threads import CountedPool

from gateway.config.model import AppTarget, Mount, Where
from gateway.http.dispatch import LoadedMount
from gateway.limits import Admission, MountLimits
from gateway.mounts import chain as chains
from gateway.mounts.chain import Chain, Layer
from gateway.mounts.live import Live
from gateway.mounts.loader import Unavailable

EDITS = 10
ALL = ["Quarantined", "LivePages", "Limited", "Limited", "InThreads"]


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def make_mount(pool: int = 0, **limits: Any) -> Mount:
    return Mount(
        name="/",
        host=None,
        prefix="",
        target=AppTarget("x:y"),
        limits=MountLimits(**limits),
        where=Where(line=1, column=1),
        pool="a",
        pool_admission=Admission(max_concurrency=pool),
    )


def load(app: Any = hello, kind: str = "app") -> LoadedMount:
    return LoadedMount(name="/", host=None, prefix="", app=app, limits=MountLimits(), kind=kind)


def list_wrappers(mount: LoadedMount) -> list[str]:
    """From the outermost."""
    app, found = mount.app, []
    while app is not mount.bare_app:
        found.append(type(app).__name__)
        app = app._app  # type: ignore[attr-defined]
    return found


@pytest.fixture
def pool() -> Iterator[CountedPool]:
    pool = CountedPool(1)
    yield pool
    wait_until(lambda: not len(pool), "no thread is at work")
    pool.end()


@pytest.fixture
def full(pool: CountedPool) -> Chain:
    """A chain that has a use for each layer."""
    chain = Chain(pool, Live())
    chain.quarantined = {"/": 1.0}
    return chain


def test_a_mount_that_needs_no_layer_is_called_as_it_is() -> None:
    loaded = load()
    Chain().serve([loaded], [make_mount()])
    assert loaded.app is loaded.bare_app is hello


def test_each_layer_is_there_once_however_often_the_table_is_edited(full: Chain) -> None:
    loaded = load()
    for number in range(1, 1 + EDITS):
        full.serve([loaded], [make_mount(max_concurrency=number, pool=number)])
        assert list_wrappers(loaded) == ALL


def test_a_reused_app_is_wrapped_once_at_each_edit(full: Chain) -> None:
    loaded = load()
    for _ in range(EDITS):
        loaded = load(loaded.bare_app)
        full.probe([loaded], [make_mount()])
        assert list_wrappers(loaded) == ["InThreads"]
        full.serve([loaded], [make_mount(max_concurrency=1, pool=1)])
        assert list_wrappers(loaded) == ALL


def test_what_is_no_longer_needed_is_taken_off(full: Chain) -> None:
    loaded = load()
    full.serve([loaded], [make_mount(max_concurrency=1, pool=1)])
    full.quarantined = {}
    full.serve([loaded], [make_mount()])
    assert list_wrappers(loaded) == ["LivePages", "InThreads"]


def test_requests_that_run_stay_counted_over_edits() -> None:
    chain, loaded, limits = Chain(), load(), make_mount(max_concurrency=2)
    chain.serve([loaded], [limits])
    [semaphore] = chain.semaphores._by_name.values()
    environ = {"gateway.client_disconnected": lambda: False}
    running = loaded.app(environ, lambda *_: None)
    for _ in range(EDITS):
        chain.serve([loaded], [limits])
    assert [*chain.semaphores._by_name.values()] == [semaphore]
    assert semaphore._running == 1
    running.close()  # type: ignore[attr-defined]
    assert semaphore._running == 0


@pytest.mark.parametrize(
    ("app", "kind", "expected"),
    [
        (hello, "app", ["LivePages", "InThreads"]),
        (hello, "upstream", ["LivePages"]),
        (hello, "static", []),
        (Unavailable(), "app", ["LivePages"]),
    ],
)
def test_only_apps_run_in_threads_and_only_pages_of_apps_reload(
    pool: CountedPool, app: Any, kind: str, expected: list[str]
) -> None:
    loaded = load(app, kind)
    Chain(pool, Live()).serve([loaded], [make_mount()])
    assert list_wrappers(loaded) == expected


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_further_layer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, serve: Any, pool: CountedPool, in_threads: bool
) -> None:
    seen: list[str] = []

    def count(app: Any, loaded: LoadedMount, mount: Mount, chain: Chain) -> Any:
        def counted(environ: Any, start_response: Any) -> Any:
            seen.append(environ["PATH_INFO"])
            return app(environ, start_response)

        return counted

    monkeypatch.setattr(chains, "LAYERS", (*chains.LAYERS, Layer(count)))
    gateway = serve(hello)
    chain = Chain(pool if in_threads else None)
    for number in range(EDITS):
        chain.serve(gateway.service.table.mounts, [make_mount(max_concurrency=1)])
        assert gateway.ask(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number).content == b"hello"
    assert seen == [f"/{number}" for number in range(EDITS)]
