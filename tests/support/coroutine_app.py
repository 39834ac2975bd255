"""A WSGI app of asyncio alone: ``/NAME?key=KEY&most=N`` runs the coroutine NAME once N requests
with KEY have a loop that runs, so that they certainly overlap. For every Python of a pool.
"""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs

try:
    import greenlet
except ImportError:  # in native threads apps do not see what only the gateway needs
    greenlet = None

SECONDS = 0.02
here = {}
variable = contextvars.ContextVar("variable", default="unset")


async def meet(environ):
    """Wait until ``most`` requests are here. Raises AssertionError after 20 s."""
    for _ in come(environ):
        await asyncio.sleep(0.002)


def meet_blocking(environ):
    for _ in come(environ):
        time.sleep(0.002)


def come(environ):
    asked = parse_qs(environ["QUERY_STRING"])
    key, most = asked["key"][0], int(asked["most"][0])
    here[key] = here.get(key, 0) + 1
    deadline = time.monotonic() + 20
    while here[key] < most:
        assert time.monotonic() < deadline, "the others never came"
        yield


def find_loop():
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def wait():
    await asyncio.sleep(SECONDS)


async def gather():
    async def give(number):
        await asyncio.sleep(SECONDS)
        assert asyncio.current_task() is not None
        return number

    assert await asyncio.gather(*map(give, range(5))) == list(range(5))


async def to_a_thread():
    loop = asyncio.get_running_loop()

    def block():
        assert find_loop() is None
        time.sleep(SECONDS)
        return 7

    assert await asyncio.to_thread(block) == 7
    assert await loop.run_in_executor(None, block) == 7
    assert find_loop() is loop


async def from_a_thread():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 1)).start()
    assert await future == 1


async def block_in_a_step():
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for _ in range(3):
        time.sleep(SECONDS / 3)
        assert find_loop() is loop
        assert asyncio.current_task() is task
    assert subprocess.run(["true"], check=False).returncode == 0


async def timeouts():
    try:
        await asyncio.wait_for(asyncio.sleep(30), SECONDS)
    except asyncio.TimeoutError:
        pass
    else:
        raise AssertionError
    if sys.version_info >= (3, 11):
        try:
            async with asyncio.timeout(SECONDS):
                await asyncio.sleep(30)
        except TimeoutError:
            pass
        else:
            raise AssertionError


async def task_group():
    if sys.version_info >= (3, 11):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(SECONDS, n)) for n in range(3)]
        assert [task.result() for task in tasks] == [0, 1, 2]


async def eager_tasks():
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await asyncio.create_task(gather())


async def run_a_program():
    program = await asyncio.create_subprocess_exec("echo", "5", stdout=subprocess.PIPE)
    told, _ = await program.communicate()
    assert (told, program.returncode) == (b"5\n", 0)


async def stream():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(SECONDS)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    server.close()


async def contexts():
    async def change():
        assert variable.get() == "ours"
        variable.set("the task's")
        await asyncio.sleep(SECONDS)
        assert variable.get() == "the task's"

    variable.set("ours")
    await asyncio.gather(change(), change())
    assert variable.get() == "ours"
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_later(
        SECONDS,
        lambda: called.set_result((find_loop() is loop, variable.get())),
        context=contextvars.Context(),
    )
    assert await called == (True, "unset")


async def asynchronous_generators():
    closed = asyncio.get_running_loop().create_future()

    async def generate():
        try:
            while True:
                yield 1
                await asyncio.sleep(SECONDS)
        finally:
            closed.set_result(True)

    generator = generate()
    await generator.__anext__()
    await generator.__anext__()
    del generator  # its loop closes it (PEP 525)
    gc.collect()
    assert await asyncio.wait_for(closed, 10)


async def all_tasks():
    tasks = [asyncio.ensure_future(asyncio.sleep(SECONDS)) for _ in range(3)]
    await asyncio.sleep(SECONDS / 4)
    assert asyncio.all_tasks() == {*tasks, asyncio.current_task()}
    await asyncio.wait(tasks)


async def nested_greenlet():
    """As SQLAlchemy does: code that blocks, in a greenlet that has the loop's for a parent."""
    if greenlet is None:
        return
    loop, ours = asyncio.get_running_loop(), greenlet.getcurrent()

    def block():
        assert find_loop() is loop
        time.sleep(SECONDS)
        assert find_loop() is loop
        return ours.switch(asyncio.sleep(SECONDS, "slept"))

    nested = greenlet.greenlet(block)
    assert nested.switch(await nested.switch()) == "slept"


async def debug():
    asyncio.get_running_loop().set_debug(True)
    await gather()


CASES = {
    case.__name__: case
    for case in (
        *(wait, gather, to_a_thread, from_a_thread, block_in_a_step, timeouts, task_group),
        *(eager_tasks, run_a_program, stream, contexts, asynchronous_generators, all_tasks),
        *(nested_greenlet, debug),
    )
}


def app(environ, start_response):
    case = CASES[environ["PATH_INFO"].lstrip("/")]

    async def main():
        await meet(environ)
        await case()

    asyncio.run(main(), debug=case is debug)
    assert find_loop() is None
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def neighbour(environ, start_response):
    """What a request sees of the loops of others."""
    seen = [find_loop(), sys.get_asyncgen_hooks()[0], sys.get_coroutine_origin_tracking_depth()]
    time.sleep(0.001)
    seen += [find_loop(), sys.get_asyncgen_hooks()[0], sys.get_coroutine_origin_tracking_depth()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok" if seen == [None, None, 0] * 2 else repr(seen).encode()]
