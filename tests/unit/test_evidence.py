"""Which mount is held responsible for workers that end, and above all which is not."""

import random

import pytest

from gateway.inflight import InFlightRequest
from gateway.supervisor.pools.evidence import MIN_DEATHS, WINDOW_SECONDS, Evidence

NOBODY = ""


def request(mount: str, target: str = "/", method: str = "GET") -> InFlightRequest:
    return InFlightRequest(1.0, "id", "client", mount, method, target, "HTTP/1.1")


BAD = request("/bad", "/bad/die")
BUSY = request("/busy", "/busy/poll")


def calm(evidence: Evidence, seconds: int, *requests: InFlightRequest) -> None:
    for _ in range(seconds):
        evidence.look([requests, requests])


def die(evidence: Evidence, moment: float, *requests: InFlightRequest, is_sure: bool = True) -> str:
    evidence.add(moment, requests, is_sure=is_sure)
    key = evidence.judge({})
    return key[0] if key else NOBODY


def test_a_mount_that_was_alone_at_three_deaths_is_responsible():
    evidence = Evidence()
    assert [die(evidence, moment, BAD) for moment in range(3)] == [NOBODY, NOBODY, "/bad"]


def test_deaths_that_are_long_past_do_not_count():
    evidence = Evidence()
    moments = [0.0, 1.0, WINDOW_SECONDS + 2, WINDOW_SECONDS + 3]
    assert [die(evidence, moment, BAD) for moment in moments] == [NOBODY] * 4
    assert die(evidence, WINDOW_SECONDS + 4, BAD) == "/bad"


def test_time_in_which_a_mount_could_do_nothing_is_left_out_of_its_window():
    evidence = Evidence()
    for moment in range(3):
        evidence.add(moment, [BAD], is_sure=True)
    evidence.add(WINDOW_SECONDS + 100, [BAD], is_sure=True)
    assert evidence.judge({}) is None
    assert evidence.judge({"/bad": 200.0}) == ("/bad", "")


@pytest.mark.parametrize("is_sure", [True, False])
def test_who_is_in_flight_at_deaths_alone_is_responsible_not_its_busy_neighbour(is_sure: bool):
    evidence = Evidence()
    calm(evidence, 60, BUSY)
    named = [die(evidence, moment, BUSY, BAD, is_sure=is_sure) for moment in range(3)]
    assert named == [NOBODY, NOBODY, "/bad"]


def test_a_neighbour_that_is_in_flight_at_every_moment_is_never_responsible():
    evidence = Evidence()
    calm(evidence, 60, BUSY)
    for moment in range(100):
        assert die(evidence, moment, BUSY, BAD) in (NOBODY, "/bad")
        calm(evidence, 1, BUSY)


def test_one_request_of_a_busy_mount_is_found_beside_a_busy_neighbour():
    evidence, usual = Evidence(), request("/bad", "/bad/")
    calm(evidence, 600, BUSY, usual)
    named = ""
    for moment in range(12):
        named = named or die(evidence, moment, BUSY, usual, BAD)
        assert named in (NOBODY, "/bad")
        calm(evidence, 2, BUSY, usual)
    assert named == "/bad"
    assert evidence.judge({}) == ("/bad", "GET /bad/die")


def test_who_is_in_flight_whatever_happens_is_not_responsible_for_memory():
    """A stream that is always there, alone when another's leak is noticed."""
    evidence = Evidence()
    calm(evidence, 60, BUSY)
    assert {die(evidence, moment, BUSY, is_sure=False) for moment in range(20)} == {NOBODY}


def test_where_two_are_always_in_flight_nobody_is_responsible():
    evidence, usual = Evidence(), request("/bad", "/bad/")
    calm(evidence, 60, BUSY, usual)
    assert {die(evidence, moment, BUSY, usual) for moment in range(20)} == {NOBODY}


def test_before_anything_is_known_of_who_is_busy_nobody_is_chosen_from_two():
    evidence = Evidence()
    assert {die(evidence, moment, BUSY, BAD) for moment in range(MIN_DEATHS)} == {NOBODY}


def test_two_bad_mounts_are_both_found():
    evidence, worse = Evidence(), request("/worse")
    calm(evidence, 120, BUSY)
    named = [die(evidence, moment, BUSY, worse if moment % 2 else BAD) for moment in range(8)]
    assert set(named) == {NOBODY, "/bad", "/worse"}


SCENARIOS = 200


def test_innocent_mounts_are_spared_by_chance_too():
    """One bad mount among six that are in flight with a chance of 2 to 98 in a hundred each, five
    deaths: in 200 such gateways an innocent mount is named twice at most."""
    chance = random.Random(4)
    wrong = found = 0
    for _ in range(SCENARIOS):
        shares = {f"/m{number}": chance.uniform(0.02, 0.98) for number in range(6)}

        def draw(shares: dict[str, float] = shares) -> list[InFlightRequest]:
            return [request(m, f"{m}/{chance.randrange(3)}") for m in shares
                    if chance.random() < shares[m]]  # fmt: skip

        evidence = Evidence()
        for _ in range(120):
            evidence.look([draw(), draw()])
        named = {die(evidence, moment, *draw(), BAD) for moment in range(5)} - {NOBODY}
        found += "/bad" in named
        wrong += bool(named - {"/bad"})
    assert wrong <= 2, wrong
    assert found > SCENARIOS * 0.9, found
