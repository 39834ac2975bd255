"""Handles the exit of a worker: reports it, writes the access records of the requests that ended
with it, and starts a replacement.

The records have the format and the place of those that the worker would have written.
"""

import asyncio
import signal
import time
from functools import cache, partial

from gateway.access_log import AccessLog, quote_json
from gateway.logs import choose_style, lifecycle
from gateway.protocol.request import RequestHead
from gateway.supervisor.backoff import YOUNG_SECONDS
from gateway.supervisor.generations.failures import describe_failure
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.start_failures import SILENCE
from gateway.supervisor.processes.process import Process, ProcessState
from gateway.supervisor.tasks import guarded, keep_up
from gateway.uncaught import report_own

# what nginx answers a client if no response came
BAD_GATEWAY = 502
# exit codes of commands that end on SIGTERM: as subprocess has it, and as shells do
ENDED_BY_SIGTERM = (-signal.SIGTERM, 128 + signal.SIGTERM)
_STDOUT = 1


async def handle_exit(generation: Generation, process: Process, *, is_stopping: bool) -> None:
    """A worker has ended and was reaped: report that, and replace it if its generation serves and
    the gateway is not stopping (a terminal sends SIGINT to workers too)."""
    was, now = process.state, time.monotonic()
    with guarded(f"releasing worker {process.pid}"):
        await process.finish()
    generation.remove(process)
    delay: float | None
    try:
        delay = report_exit(generation, process, was, now, is_stopping=is_stopping)
    except Exception as error:  # noqa: BLE001  it is replaced all the same
        report_own(f"the exit of worker {process.pid}", error)
        delay = None if is_stopping else generation.backoff.note_failure(now)
        if generation.state is GenerationState.STARTING:
            generation.add_fault("the exit of a worker: a fault of the gateway's own")
    generation.note_change()
    if delay is not None:
        await keep_up(partial(replace, generation, delay))


def report_exit(
    generation: Generation, process: Process, was: ProcessState, now: float, *, is_stopping: bool
) -> float | None:
    """Log the exit of a worker that ``was`` in that state, as far as that is needed. The seconds
    until a replacement starts, None for no replacement."""
    delay: float | None = None
    lost = 0
    style = generation.config.server.access_log
    with guarded(f"the records of worker {process.pid}"):
        lost = record_lost(process, style if style == "off" else choose_style(style))
    ended = f"worker {process.pid} ({was.value}) {process.describe_end()}"
    ended += f", with requests in flight: {lost}," if lost else ""
    was_loading = was in (ProcessState.LOADING, ProcessState.TRYING) and not is_stopping
    is_left_out = was_loading and note_exit_at_mount(generation, process, now)
    if process.trial:
        pass  # it was not to serve, and its result is known
    elif generation.state is GenerationState.STARTING:
        if is_left_out:
            start_again(generation)
        elif not generation.faults:
            ended = f"{ended} while it was loading"
            generation.note_fault(generation.locate(process.loading, ended + process.last_output))
    elif generation.state is GenerationState.SERVING and generation.is_short and not is_stopping:
        delay = plan_next(generation, process, was, ended, now, is_left_out=is_left_out)
    elif lost or (generation.state is GenerationState.SERVING and not is_expected(process, was)):
        ended = generation.locate(process.loading, ended)
        lifecycle.error("%s after %.1f s", ended, now - process.started)
    return delay


def is_expected(process: Process, was: ProcessState) -> bool:
    """Its exit needs no report: it was asked to end, or what started it reports it."""
    is_leaving = was in (ProcessState.RETIRING, ProcessState.DRAINING)
    is_spare = process.is_spare and was is ProcessState.LOADING
    return (
        not process.exit_code or is_spare or (is_leaving and process.exit_code in ENDED_BY_SIGTERM)
    )


def plan_next(
    generation: Generation,
    process: Process,
    was: ProcessState,
    ended: str,
    now: float,
    *,
    is_left_out: bool,
) -> float:
    """Report the exit of a worker that served or would have; ``is_left_out``: the next one does
    not load the mount at fault. The seconds until that one starts."""
    lived = now - process.started
    is_start = was in (ProcessState.LOADING, ProcessState.LOADED)
    # a command that answers may still find that it cannot serve
    is_early = bool(generation.config.pool.command) and lived < YOUNG_SECONDS
    if is_start or is_early:
        generation.note_trouble(process, ended + process.last_output)
    delay = 0.0
    if not is_left_out:
        delay = generation.backoff.note_death(
            *(process.started, now),
            has_served=not (is_start or is_early or process.reason),
            has_loaded=was is not ProcessState.LOADING,
        )
    when = f"in {delay:.3g} s" if delay else "now"
    text = generation.locate(
        process.loading, f"{ended} after {lived:.1f} s; a new one starts {when}"
    )
    if is_left_out:
        lifecycle.error("%s, without that mount", text)
    elif process.reason or not (is_start or is_early):
        lifecycle.error("%s", text)
    elif note_early_exit(generation, process, was):
        lifecycle.error("%s; %s%s", text, SILENCE, process.last_output)
    return delay


def note_early_exit(generation: Generation, process: Process, was: ProcessState) -> bool:
    """A worker has ended at its start or soon after; whether the log does not have that yet."""
    if process.objection:
        return False  # reported when its time was over
    has_served = was not in (ProcessState.LOADING, ProcessState.LOADED)
    reason = f"{process.loading} ({was.value}) {process.reason_to_fail}"
    return generation.failures.note(reason, has_served=has_served)


def note_exit_at_mount(generation: Generation, process: Process, now: float) -> bool:
    """A worker has ended while it loaded a mount, which is tried alone from now on; whether the
    next worker leaves it out."""
    name = process.trial or process.loading
    is_starting = generation.state is GenerationState.STARTING and generation.may_lack(name)
    if not name or not (generation.state is GenerationState.SERVING or is_starting):
        return False
    what = ", which tried it alone," if process.trial else " (loading)"
    why = (
        process.objection
        or f"worker {process.pid}{what} {process.describe_end()}{process.last_output}"
    )
    error, _, more = why.partition("\n")
    report = {"mount": name, "error": error, "traceback": more}
    outage = generation.outages.note_death(
        report,
        now,
        took=now - process.started,
        is_trial=bool(process.trial),
        is_alone=len(generation.config.mounts) == 1,
    )
    if not outage.is_left_out:
        return False
    generation.note_failed(outage.report)
    if process.trial and outage.note_report():
        effect = (
            "; it is left out and answers 503, the others serve. It is tried again until it loads"
        )
        text = describe_failure(generation.config, outage.report, effect)
        lifecycle.error("%s", text, extra={"mount": name})
    return True


def start_again(generation: Generation) -> None:
    """Start a worker without the mount that has ended another one."""
    try:
        generation.spawn()
    except OSError as error:
        generation.note_fault(generation.locate("", f"a worker could not be started: {error}"))


async def replace(generation: Generation, delay: float) -> None:
    """Start a worker after ``delay`` seconds, as soon as the gate admits it, if one is missing
    then; try again, with pauses, until one could be started."""
    await asyncio.sleep(delay)
    while generation.state is GenerationState.SERVING and generation.is_short:
        try:
            await generation.add()
            break
        except OSError as error:
            delay = generation.note_no_start(error)
            fault = generation.locate("", generation.trouble)
            if generation.failures.note(error.strerror or str(error)):
                lifecycle.error("%s; again in %.3g s; %s", fault, delay, SILENCE)
            generation.note_change()
            await asyncio.sleep(delay)


@cache
def _open_log(style: str) -> AccessLog:
    return AccessLog(style, _STDOUT)


def record_lost(process: Process, style: str) -> int:
    """Write the access records of the requests that ended with a worker; their number. ``style`` is
    that of an AccessLog."""
    log = _open_log(style)
    now = time.monotonic()
    requests = process.in_flight.requests()
    for request in requests if log.is_on else ():
        # an app may have written anything into its memory, and these two are not quoted later
        request_id, client = (
            quote_json(text)[1:-1] for text in (request.request_id, request.client)
        )
        head = RequestHead()
        head.method, head.target, head.fields = request.method, request.target, {}
        head.is_http11 = request.protocol != "HTTP/1.0"
        log.record(
            (
                *(request_id, client, request.mount, head, BAD_GATEWAY, 0, 0),
                *(request.started, now, f"worker {process.pid} {process.describe_end()}"),
            )
        )
    log.flush()
    return len(requests)
