"""Request content in each kind of mount of a running gateway, with Django as the app."""

from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
from running import Running

DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF="django_app", ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False)
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path

def view(request):
    return HttpResponse(str(len(request.body)))

urlpatterns = [re_path("", view)]
app = get_wsgi_application()
"""
TABLE = """\
  /shared: django_app:app
  /greenlets: {app: 'django_app:app', pool: own}
  /threads: {app: 'django_app:app', pool: threads}
  /scarce: {app: 'django_app:app', max_concurrency: 1}
pools:
  threads: {concurrency: threads, threads: 2}
"""
MOUNTS = ["/shared", "/greenlets", "/threads", "/scarce"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    gateway = Running(tmp_path_factory.mktemp("content"), TABLE, django_app=DJANGO)
    yield gateway
    assert gateway.end() == 0


def chunked(size: int) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)


def read_answer(connection: Any) -> bytes:
    with HTTPResponse(connection) as answer:
        answer.begin()
        return answer.read()


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("size", [5, 20_000, 1_000_000])
def test_chunks_reach_django_whole(running: Running, mount: str, size: int) -> None:
    head = f"POST {mount} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    with running.connect() as connection:
        connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(size))
        assert read_answer(connection) == b"%d" % size


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("size", [2_000, 200_000])
def test_slow_uploads_hold_no_thread_and_no_place(running: Running, mount: str, size: int) -> None:
    """Fifty of them, of a mount that runs one or two requests at a time."""
    head = f"POST {mount} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += f"Content-Length: {size}\r\n\r\n"
    slow = [running.connect() for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + b"x" * (size - 1))
        with running.connect() as connection:
            connection.sendall(head.encode() + b"x" * size)
            assert read_answer(connection) == b"%d" % size
        for connection in slow:  # they are still there, and were only waited for
            connection.sendall(b"x")
        assert {read_answer(connection) for connection in slow} == {b"%d" % size}
    finally:
        for connection in slow:
            connection.close()
