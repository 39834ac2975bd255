"""Handles the reports of workers: what each changes of the worker and of its generation."""

import asyncio
import time

from gateway.logs import lifecycle
from gateway.supervisor.backoff import YOUNG_SECONDS
from gateway.supervisor.generations.failures import describe_failure, describe_place
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.processes.process import Process, ProcessState, Report

# for a worker that will not serve to end by itself, before it is killed
END_SECONDS = 2.0


def take_report(generation: Generation, process: Process, report: Report) -> None:
    """Handle one report of a worker."""
    event = report["event"]
    if event == "loading":
        process.note_loading(report["mount"])
        return  # nobody waits for this one, and there is one for each mount
    if event == "noted":
        _note_change(generation, report)
    elif event == "loaded":
        _on_loaded(generation, process, report)
    elif event == "prepared":
        process.note_prepared(report["mounts"])
    elif event == "found":
        process.note_found(report["paths"])
    elif event == "applied":
        process.note_applied()
    elif event == "ready":
        if process.note_ready():
            generation.note_ready()
            _note_recovery(generation, process)
        _log_when_ready(generation)
    elif event == "settled":
        process.note_settled()
    elif event in ("paused", "retired"):
        process.note_paused()
    elif event == "drained" and report["cut"]:
        lifecycle.warning("worker %d cut requests: %d", process.pid, report["cut"])
    generation.note_change()


def _note_change(generation: Generation, report: Report) -> None:
    """Log what an app has changed for others, once and not for every worker."""
    config, name = generation.config, report["mount"]
    is_known = any(mount.name == name for mount in config.mounts)  # a reload may have removed it
    place = (
        describe_place(config, name) if is_known else f"{config.source}: pool {config.pool.name}"
    )
    text = f"{place}: {report['text']}"
    if generation.note_app_change(text):
        lifecycle.warning("%s", text, extra={"mount": name} if is_known else {})


def _on_loaded(generation: Generation, process: Process, report: Report) -> None:
    reports = [each for each in report["mounts"] if each["mount"] not in process.left_out]
    is_unfit = process.is_spare and _has_objections(generation, process, reports)
    failed, trial = [each for each in reports if not each.get("is_loaded")], process.trial
    process.note_loaded(frozenset(each["mount"] for each in failed))
    _note_outages(generation, process, failed, trial)
    if process.trial or is_unfit:
        process.terminate()
        asyncio.get_running_loop().call_later(END_SECONDS, process.kill)
        return
    _note_mounts(generation, reports)
    if process.lacks:
        process.put_off(generation.outages.pauses)
    if process.finish_loading():
        if process.config is not generation.config:
            process.apply(generation.config)  # which has changed in place while it was loading
        if generation.state is GenerationState.SERVING:
            process.accept()


def _has_objections(generation: Generation, process: Process, reports: list[Report]) -> bool:
    """A spare worker failed to load what others have loaded."""
    known = generation.failed.keys() - set(generation.outages.loaded)
    new = [report for report in reports if report["mount"] not in known]
    process.refuse("\n".join(describe_failure(generation.config, report) for report in new))
    return bool(new)


def _note_outages(
    generation: Generation, process: Process, failed: list[Report], trial: str
) -> None:
    """The mounts that it could not load are tried again; those that it could load, others are to
    have too. ``trial`` is the one that it tried."""
    now = time.monotonic()
    for report in failed:
        name, took = report["mount"], now - process.started
        if name in generation.outages.pauses:
            generation.note_failed(report)  # of a retry: for the status, and not for the log
        elif process.is_spare:
            continue  # the spare will not serve, and all others have loaded it
        generation.outages.note_error(report, now, took=took, is_trial=name == trial)
    generation.outages.note_loaded(process.lacks)


def _note_recovery(generation: Generation, process: Process) -> None:
    """Report that the pool serves again; where others failed after they had served, only once this
    worker has lasted."""
    if generation.failures.has_served:
        asyncio.get_running_loop().call_later(YOUNG_SECONDS, _end_failures, generation, process)
    else:
        _end_failures(generation, process)


def _end_failures(generation: Generation, process: Process) -> None:
    if process.state is not ProcessState.READY or process.exit_code is not None:
        return
    process.forward_output()
    if generation.failures.end() and generation.was_ready:
        lifecycle.info("pool %s: it serves again", generation.config.pool.name)


def _log_when_ready(generation: Generation) -> None:
    states = {process.state for process in generation.workers}
    if not generation.was_ready and states == {ProcessState.READY}:
        generation.note_all_ready()
        if generation.state is GenerationState.SERVING:
            took, pool = time.monotonic() - generation.began, generation.config.pool.name
            lifecycle.info("pool %s: ready after %.2f s", pool, took)


def _note_mounts(generation: Generation, reports: list[Report]) -> None:
    """Report each mount that did not load, once and not for every worker."""
    for report in reports:
        name = report["mount"]
        known = generation.failed.get(name)
        if known is not None and known["error"] == report["error"]:
            continue
        generation.note_failed(report)
        if generation.may_fail is None or name in generation.may_fail:
            is_loaded = report.get("is_loaded")
            effect = "; it serves" if is_loaded else "; it answers 503, the others serve"
            text = describe_failure(generation.config, report, effect)
            lifecycle.error("%s", text, extra={"mount": name})
        else:
            generation.note_fault(describe_failure(generation.config, report))
