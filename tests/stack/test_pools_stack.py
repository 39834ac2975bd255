"""Pools in the stack, through nginx: what one does is no other's concern, and bytes cross a hop."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from clients import Load
from stacks import Lab
from wire import Connection, build_request, wait_until

TABLE = ("-c", "/srv/apps/mounts.yaml")
MIB = 1024 * 1024
GIB_LINES = 1024 * MIB // 64
POOLS = """\
  /pooled/echo: {app: "echo:app", pool: work}
  /pooled/upload: {app: "upload:app", pool: work, max_body: 8MiB}
  /pooled/download: {app: "download:app", pool: work}
  /hungry: {app: "hungry:app", pool: hungry, timeout: 60s}
  /swallow: {app: "hungry:app", pool: work, max_body: 2GiB, request_buffering: off}
  /drowsy: {app: "hungry:app", pool: drowsy}
  /kin: {app: "teller:app", pool: kin}
pools:
  work: {workers: 2, pass_env: [GATEWAY_DATA]}
  hungry: {max_memory: 200MiB}
  drowsy: {idle: 2s}
  kin: {user: gateway, group: gateway}
"""


def status(lab: Lab):
    ran = lab.run_in("gateway", "gateway", "status", "--json", *TABLE)
    assert ran.exit_code == 0, ran.err
    return json.loads(ran.out)


def workers(lab: Lab, pool: str) -> dict[int, int]:
    """The memory of each worker that serves there, by pid."""
    return {
        worker["pid"]: worker["memory"]
        for generation in status(lab)["generations"]
        if generation["pool"] == pool and generation["state"] == "serving"
        for worker in generation["workers"]
        if worker["state"] == "ready"
    }


@pytest.fixture(scope="module")
def pooled(lab: Lab) -> Iterator[Lab]:
    table = lab.table
    lab.table = table.replace("server:\n", "server:\n  reload_on_edit: false\n") + POOLS
    assert lab.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0
    yield lab
    lab.table = table
    assert lab.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0


def test_client_scheme_and_request_id_cross_the_hop(pooled: Lab):
    direct, hop = pooled.fetch("/echo/a%2Fb?c=d"), pooled.fetch("/pooled/echo/a%2Fb?c=d")
    seen, passed_on = direct.json(), hop.json()
    for key in ("path_info", "query", "scheme", "client", "method", "server_port"):
        assert passed_on[key] == seen[key]
    assert passed_on["script_name"] == "/pooled/echo"
    assert passed_on["worker"] in workers(pooled, "work")
    record = pooled.record("nginx", passed_on["request_id"])
    assert record["target"] == "/pooled/echo/a%2Fb?c=d"


def test_a_gateway_that_is_not_root_starts_workers_as_its_own_user(pooled: Lab):
    assert pooled.fetch("/kin/?none").json()["user"] == "gateway"


def test_an_app_that_computes_holds_up_no_other_pool(pooled: Lab):
    """Its own pool answers nothing meanwhile, and the load beside it goes on."""
    with ThreadPoolExecutor(1) as threads, Load(pooled.address, 8) as load:
        computing = threads.submit(pooled.fetch, "/hungry/compute/4")
        answered, others = load.total, 0
        while not computing.done():
            assert pooled.fetch("/pooled/echo").status == 200
            others += 1
        served = load.total - answered
    assert computing.result().status == 200
    assert others > 10
    assert served > 100
    assert (load.faults, load.resets) == ([], 0)


def test_a_pool_that_grows_is_recycled_and_its_neighbours_see_nothing(pooled: Lab):
    [(old, memory)] = workers(pooled, "hungry").items()
    assert memory < 150 * MIB
    with Load(pooled.address, 16, pause=0.01) as load:
        assert pooled.fetch(f"/hungry/keep/{200 * MIB}").content == b"%d" % old
        wait_until(lambda: old not in workers(pooled, "hungry"), "it is replaced", 60)
        # the front may have kept a connection to the old one, for one more answer each
        wait_until(
            lambda: int(pooled.fetch("/hungry/keep/1").content) in workers(pooled, "hungry"),
            "the new one answers",
        )
    assert (load.faults, load.resets) == ([], 0)


def test_a_pool_that_sleeps_wakes_for_a_request(pooled: Lab):
    def is_asleep() -> bool:
        generations = status(pooled)["generations"]
        return "asleep" in [g["state"] for g in generations if g["pool"] == "drowsy"]

    pooled.fetch("/drowsy/keep/1")
    wait_until(is_asleep, "nobody asks for it", 30)
    assert workers(pooled, "drowsy") == {}
    assert pooled.fetch("/drowsy/keep/1").status == 200


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_gibibyte_crosses_the_hop_in_constant_memory(pooled: Lab, direction):
    before = {**workers(pooled, "main"), **workers(pooled, "work")}
    with Connection(pooled.address) as client:
        if direction == "out":
            client.send(build_request(client.host, f"/pooled/download?{GIB_LINES}", "GET"))
            head = client.read_head()
            assert sum(map(len, client.read_content(head))) == 1024 * MIB
        else:
            how = ("Transfer-Encoding", "chunked")
            client.send(build_request(client.host, "/swallow/all/0", "PUT", how))
            block = os.urandom(MIB)
            for _ in range(1024):
                client.send(b"%x\r\n%b\r\n" % (MIB, block))
            client.send(b"0\r\n\r\n")
            digest = hashlib.sha256(block * 1024).hexdigest()
            assert client.read_answer("PUT").content == digest.encode()
    after = {**workers(pooled, "main"), **workers(pooled, "work")}
    for pid, memory in before.items():
        assert after[pid] - memory < 96 * MIB  # a busy machine may read 64 MiB ahead


def test_a_tool_that_sends_chunks_works_through_the_hop(pooled: Lab):
    """As `git push` and others upload: content of no announced length, from a pipe."""
    upload = "curl -sS -T - http://127.0.0.1:8080/pooled/upload/piped"
    ran = pooled.run_in("nginx", "sh", "-c", f"head -c {5 * MIB} /dev/zero | {upload}")
    digest = hashlib.sha256(bytes(5 * MIB)).hexdigest()
    assert json.loads(ran.out) == {"received": 5 * MIB, "sha256": digest}
