"""Threads, processes, logging, and what computes."""

import asyncio
import io
import logging
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import anyio
import loguru
import lxml.etree
import numpy
import pydantic
import structlog
from PIL import Image
from site_ import site, wait_for

SCRIPT = f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}; from site_ import wait_for"
SCRIPT += "; print(wait_for(sys.argv[1]), end='')"


def use_sleep(path):
    return wait_for(path)


def use_subprocess(path):
    command = [sys.executable, "-c", SCRIPT, path]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()


def use_os_system(path):
    os.system(f"'{sys.executable}' -c \"{SCRIPT}\" '{path}' > '{path}.out'")
    return Path(f"{path}.out").read_text()


def use_thread(path):
    told = queue.Queue()
    threading.Thread(target=lambda: told.put(wait_for(path))).start()
    return told.get()


def use_thread_pool(path):
    with ThreadPoolExecutor(2) as pool:
        return pool.submit(wait_for, path).result()


def use_process_pool(path):
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(wait_for, path).result()


def use_process(path):
    told = multiprocessing.Queue()
    process = multiprocessing.Process(target=put, args=(told, path))
    process.start()
    try:
        return told.get()
    finally:
        process.join()


def put(told, path):
    told.put(wait_for(path))


def use_asyncio(path):
    async def main():
        text, _ = await asyncio.gather(asyncio.to_thread(wait_for, path), asyncio.sleep(0.01))
        return text

    return asyncio.run(main())


def use_asyncio_subprocess(path):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, path, stdout=subprocess.PIPE
        )
        return (await process.communicate())[0].decode()

    return asyncio.run(main())


def use_anyio(path):
    return anyio.run(anyio.to_thread.run_sync, wait_for, path)


def use_nest_asyncio(path):
    import nest_asyncio

    loop = asyncio.new_event_loop()
    nest_asyncio.apply(loop)

    async def outer():
        return loop.run_until_complete(asyncio.to_thread(wait_for, path))

    try:
        return loop.run_until_complete(outer())
    finally:
        loop.close()


def use_uvloop(path):
    import uvloop

    async def main():
        return await asyncio.to_thread(wait_for, path)

    return uvloop.run(main())


def use_trio(path):
    import trio

    return trio.run(trio.to_thread.run_sync, wait_for, path)


def use_structlog(token):
    written = io.StringIO()
    log = structlog.wrap_logger(structlog.PrintLogger(written))
    log.bind(token=token).info("seen")
    return token if f"token={token}" in strip_colors(written.getvalue()) else written.getvalue()


def strip_colors(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def use_loguru(token):
    written = io.StringIO()
    sink = loguru.logger.add(written, format="{message}", filter=lambda r: r["message"] == token)
    loguru.logger.info(token)
    loguru.logger.remove(sink)
    return written.getvalue().strip()


def use_logging(token):
    written = io.StringIO()
    logger = logging.getLogger(f"of {token}")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(written))
    logger.warning(token)
    return written.getvalue().strip()


def use_numpy(token):
    matrix = numpy.arange(10_000.0).reshape(100, 100)
    assert (matrix @ numpy.eye(100) == matrix).all()
    return token


def use_pillow(token):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    assert Image.open(file).getpixel((3, 3)) == (255, 0, 0)
    return token


def use_lxml(token):
    return lxml.etree.fromstring(f"<a><b>{token}</b></a>").findtext("b")


def use_pydantic(token):
    class Model(pydantic.BaseModel):
        token: str

    return Model.model_validate_json(f'{{"token": "{token}"}}').token


app = site(globals())
