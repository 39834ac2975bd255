"""Database connections that an app keeps for each thread do not outlive a burst."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import pytest
from running import Running
from services import Postgres, PostgresGate, wait_until

BURST = 40
FEW = 3
OF_THE_APP = (
    "select count(*) from pg_stat_activity"
    " where backend_type = 'client backend' and pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("setup", ["Shared worker", "Greenlet pool"], indirect=True)
def test_idle_connections_fall_after_a_burst(
    setup: tuple[str, Running], postgres: Postgres
) -> None:
    """Django with CONN_MAX_AGE: 60, while a request comes now and then."""
    _, gateway = setup
    before = postgres.ask(OF_THE_APP)
    gate = PostgresGate(f"burst {id(gateway)}", postgres)
    target = f"/django/query?{urlencode(gate.parameters)}"
    with ThreadPoolExecutor(BURST) as clients:
        answers = [clients.submit(gateway.ask, target) for _ in range(BURST)]
        wait_until(lambda: postgres.ask(OF_THE_APP) >= before + BURST - FEW, "all have one")
        gate.release()
        assert all(b" 200 " in answer.result().partition(b"\r\n")[0] for answer in answers)

    now_and_then = "/django/query?" + urlencode({"query": "select 'few'"})

    def have_fallen() -> bool:
        answer = gateway.ask(now_and_then)
        assert b"few /django/query" in answer
        return int(postgres.ask(OF_THE_APP)) <= FEW

    wait_until(have_fallen, "idle connections fall")
