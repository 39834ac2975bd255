"""Socket.IO by long polling, which needs each client's requests in one worker: two workers of a
sticky pool, across a reload."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio
from running import wait_until
from services import WAIT_SECONDS
from talkers import OnPort

APPS = Path(__file__).with_name("apps")
CLIENTS = 6
CALLS = 5


@pytest.fixture(params=["greenlets", "threads"])
def gateway(request: Any, tmp_path: Path) -> Iterator[OnPort]:
    pool = f"{{workers: 2, sticky: cookie, concurrency: {request.param}}}"
    server = f"  reload_on_edit: false\npools: {{apart: {pool}}}\n"
    modules = {name: (APPS / f"{name}.py").read_text() for name in ("talks", "site_")}
    mounts = "  /socketio: {app: 'talks:socketio_app', pool: apart}\n"
    gateway = OnPort(tmp_path, mounts, server, **modules)
    try:
        wait_until(lambda: len(ready(gateway)) == 2, "both workers are ready")
        yield gateway
    finally:
        gateway.end()


def ready(gateway: OnPort) -> set[int]:
    """The pids of the pool's workers that serve."""
    return {
        worker["pid"]
        for generation in gateway.control("status")["generations"]
        if generation["pool"] == "apart" and generation["state"] == "serving"
        for worker in generation["workers"]
        if worker["state"] == "ready"
    }


@contextmanager
def connected(gateway: OnPort) -> Iterator[socketio.SimpleClient]:
    with socketio.SimpleClient(reconnection_delay=0.1, reconnection_delay_max=0.5) as client:
        client.connect(
            f"http://127.0.0.1:{gateway.port}",
            transports=["polling"],
            socketio_path="/socketio/socket.io",
            wait_timeout=WAIT_SECONDS,
        )
        yield client


def where(client: socketio.SimpleClient) -> set[int]:
    """The workers that answer some calls of a client."""
    return {client.call("where", timeout=WAIT_SECONDS) for _ in range(CALLS)}


def test_polling_clients_stay_with_their_worker_and_meet_the_new_ones_after_a_reload(
    gateway: OnPort,
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(gateway)) for _ in range(CLIENTS)]
        homes = [where(client) for client in clients]
        assert all(len(home) == 1 for home in homes)
        before = ready(gateway)
        assert set.union(*homes) == before

        ids = [client.sid for client in clients]
        assert gateway.control("reload")["exit_code"] == 0
        after = ready(gateway)
        assert not after & before
        # its session is gone with its worker, so that it connects again by itself
        for client, id_ in zip(clients, ids, strict=True):
            wait_until(lambda c=client, i=id_: c.connected and c.sid not in (None, i), "it is back")
        homes = [where(client) for client in clients]
        assert all(len(home) == 1 for home in homes)
        assert set.union(*homes) <= after
