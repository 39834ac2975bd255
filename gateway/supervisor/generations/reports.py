"""What workers report of themselves, and what their generation makes of it.

Refuses to know how a report arrives.
"""

import asyncio
import time

from gateway.logs import lifecycle
from gateway.supervisor.backoff import YOUNG_SECONDS
from gateway.supervisor.generations.failures import describe_failure, describe_place
from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.processes.process import ChildState, Process, Report, resident_bytes

# what a worker that is not to serve has to end, whatever its apps have started
END_SECONDS = 2.0
# of what apps have changed for others, in one generation: they decide what the texts are
MOST_NOTED = 100


def take_report(generation: Generation, child: Process, report: Report) -> None:
    """Take note of what a worker says of itself."""
    event = report["event"]
    if event == "loading":
        child.loading, child.loading_since = report["mount"], time.monotonic()
        return  # nobody waits for that, and there are as many as mounts
    if event == "noted":
        _note_change(generation, report)
    elif event == "loaded":
        _on_loaded(generation, child, report)
    elif event == "prepared":
        child.note_prepared(report["mounts"])
    elif event == "found":
        child.note_found(report["paths"])
    elif event == "applied":
        child.note_applied()
    elif event == "ready":
        if child.state is ChildState.LOADED:
            child.state = ChildState.READY
            child.accepts = generation.was_asked = True
            generation.trouble = ""
            _note_recovery(generation, child)
        _tell_when_ready(generation)
    elif event == "settled":
        child.is_active = False
    elif event in ("paused", "retired"):
        child.accepts = False
    elif event == "drained" and report["cut"]:
        lifecycle.warning("worker %d cut requests: %d", child.pid, report["cut"])
    generation.note_change()


def _note_change(generation: Generation, report: Report) -> None:
    """What an app has changed for others counts once, and not for every worker."""
    config, name = generation.config, report["mount"]
    is_known = any(mount.name == name for mount in config.mounts)  # it may have gone meanwhile
    place = (
        describe_place(config, name) if is_known else f"{config.source}: pool {config.pool.name}"
    )
    text = f"{place}: {report['text']}"
    if text not in generation.noted and len(generation.noted) < MOST_NOTED:
        generation.noted.add(text)
        lifecycle.warning("%s", text, extra={"mount": name} if is_known else {})


def _on_loaded(generation: Generation, child: Process, report: Report) -> None:
    child.loading = ""
    child.loaded_bytes = resident_bytes(child.pid)
    reports = [each for each in report["mounts"] if each["mount"] not in child.left_out]
    is_unfit = child.is_spare and _has_objections(generation, child, reports)
    _note_outages(generation, child, reports)
    if child.trial and child.may_serve and child.trial not in child.lacks:
        child.state, child.trial = ChildState.LOADING, ""
    if child.trial or is_unfit:
        child.terminate()
        asyncio.get_running_loop().call_later(END_SECONDS, child.kill)
        return
    _note_mounts(generation, reports)
    if child.lacks:
        child.put_off(generation.outages.pauses)
    if child.state is ChildState.LOADING:
        child.state = ChildState.LOADED
        if child.config is not generation.config:
            child.apply(generation.config)  # which has changed in place while it was loading
        if generation.state is State.SERVING:
            child.accept()


def _has_objections(generation: Generation, child: Process, reports: list[Report]) -> bool:
    """Whether a spare worker failed to load what others have loaded."""
    known = generation.failed.keys() - set(generation.outages.loaded)
    new = [report for report in reports if report["mount"] not in known]
    child.objection = "\n".join(describe_failure(generation.config, report) for report in new)
    return bool(new)


def _note_outages(generation: Generation, child: Process, reports: list[Report]) -> None:
    """What it could not load is tried again; what it could, others are to have, too."""
    now = time.monotonic()
    failed = [report for report in reports if not report.get("is_loaded")]
    child.lacks = frozenset(child.left_out) | {report["mount"] for report in failed}
    for report in failed:
        name, took = report["mount"], now - child.started
        if name in generation.outages.pauses:
            generation.failed[name] = report  # a reason of its own, but no news for the log
        elif child.is_spare:
            continue  # it is not to serve, and all others have it
        generation.outages.note_error(report, now, took=took, is_trial=name == child.trial)
    generation.outages.note_loaded(child.lacks)


def _note_recovery(generation: Generation, child: Process) -> None:
    """It serves where others have failed; or, where they had served too, once it goes on."""
    if generation.failures.has_served:
        asyncio.get_running_loop().call_later(YOUNG_SECONDS, _end_failures, generation, child)
    else:
        _end_failures(generation, child)


def _end_failures(generation: Generation, child: Process) -> None:
    if child.state is not ChildState.READY or child.exit_code is not None:
        return
    child.speak()
    if generation.failures.end() and generation.was_ready:
        lifecycle.info("pool %s: it serves again", generation.config.pool.name)


def _tell_when_ready(generation: Generation) -> None:
    states = {child.state for child in generation.crew}
    if not generation.was_ready and states == {ChildState.READY}:
        generation.was_ready = True
        if generation.state is State.SERVING:
            took, pool = time.monotonic() - generation.began, generation.config.pool.name
            lifecycle.info("pool %s: ready after %.2f s", pool, took)


def _note_mounts(generation: Generation, reports: list[Report]) -> None:
    """Each mount that did not load counts once, and not for every worker."""
    for report in reports:
        name = report["mount"]
        known = generation.failed.get(name)
        if known is not None and known["error"] == report["error"]:
            continue
        generation.failed[name] = report
        if generation.may_fail is None or name in generation.may_fail:
            is_loaded = report.get("is_loaded")
            effect = "; it serves" if is_loaded else "; it answers 503, the others serve"
            text = describe_failure(generation.config, report, effect)
            lifecycle.error("%s", text, extra={"mount": name})
        else:
            generation.note_fault(describe_failure(generation.config, report))
