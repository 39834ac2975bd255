"""Workers that the kernel kills as memory runs out, at requests of one mount."""

import json
import time
from collections.abc import Iterator

import pytest
from stacks import Lab
from wire import Answer, wait_until

LIMIT = 256 * 1024 * 1024
TABLE = ("-c", "/srv/apps/mounts.yaml")


@pytest.fixture
def small(disturbed_lab: Lab) -> Iterator[Lab]:
    """A lab whose gateway has ``LIMIT`` of memory, and an app that takes what it is asked for."""
    lab = disturbed_lab
    lab.table += "  /hungry: hungry:app\n"
    wait_until(lambda: lab.fetch("/hungry/keep/1").status == 200, "the table is served", 30)
    container = lab.container("gateway")
    usual = container.attrs["HostConfig"]
    container.update(mem_limit=LIMIT, memswap_limit=LIMIT)
    yield lab
    container.update(mem_limit=usual["Memory"], memswap_limit=usual["MemorySwap"])


def ask_for_too_much(lab: Lab) -> Answer:
    """By a client that has its own pace: most of the time nothing of it is in flight."""
    began = time.monotonic()
    answer = lab.fetch(f"/hungry/keep/{LIMIT}")
    time.sleep(0.3 + time.monotonic() - began)
    return answer


def test_a_mount_whose_requests_take_all_memory_is_quarantined_alone(small: Lab) -> None:
    lab, began, asked = small, time.time(), 0
    while (answer := ask_for_too_much(lab)).status == 502:
        asked += 1
        assert asked < 30
    assert answer.status == 503
    assert f"Try again in {answer['Retry-After']} s." in answer.text
    assert lab.fetch("/echo").status == 200
    ran = lab.run_in("gateway", "gateway", "status", "--json", *TABLE)
    known = {mount["mount"]: mount["quarantine"] for mount in json.loads(ran.out)["mounts"]}
    assert [name for name in known if known[name]] == ["/hungry"]
    assert known["/hungry"]["deaths"] == asked
    assert "memory had run out" in known["/hungry"]["ended"]
    assert "mounts./hungry: in quarantine for 10 s" in lab.stderr("gateway", began)
