"""The rows of the table in docs/libraries.md: where each is asked, and what it waits for there."""

from collections.abc import Callable
from typing import NamedTuple

from talkers import OnPort, ask, call, talk


class Row(NamedTuple):
    """``waits_for`` names a kind of gate in ``conftest.py``; ``names_itself`` is whether the answer
    ends in the address that the framework gives the view; ``speak`` is its client."""

    library: str
    target: str
    waits_for: str
    names_itself: bool = False
    speak: Callable[[OnPort, str], tuple[int, str]] = ask


ROWS = [
    Row("requests", "/web/use_requests", "web"),
    Row("urllib3", "/web/use_urllib3", "web"),
    Row("urllib.request", "/web/use_urllib", "web"),
    Row("httpx", "/web/use_httpx", "web"),
    Row("httpx, async", "/web/use_httpx_async", "web"),
    Row("aiohttp", "/web/use_aiohttp", "web"),
    Row("boto3", "/web/use_boto3_slowly", "web"),
    Row("boto3 against moto", "/web/use_boto3", "moto"),
    Row("sentry-sdk", "/web/use_sentry", "web"),
    Row("grpcio", "/web/use_grpc", "grpc"),
    Row("psycopg 3", "/data/use_psycopg", "postgres"),
    Row("psycopg 3, async", "/data/use_psycopg_async", "postgres"),
    Row("psycopg_pool", "/data/use_psycopg_pool", "postgres"),
    Row("psycopg2", "/data/use_psycopg2", "postgres"),
    Row("asyncpg", "/data/use_asyncpg", "postgres"),
    Row("SQLAlchemy, psycopg 3", "/data/use_sqlalchemy", "postgres"),
    Row("SQLAlchemy, psycopg 3, async", "/data/use_sqlalchemy_async", "postgres"),
    Row("SQLAlchemy, psycopg2", "/data/use_sqlalchemy_psycopg2", "postgres"),
    Row("PyMySQL: import and its error", "/data/use_pymysql", "nothing"),
    Row("sqlite3, waiting for a lock", "/data/use_sqlite", "sqlite"),
    Row("fcntl.flock", "/data/use_flock", "flock"),
    Row("redis", "/data/use_redis", "redis"),
    Row("redis, async", "/data/use_redis_async", "redis"),
    Row("redis, pub/sub", "/data/use_redis_pubsub", "redis"),
    Row("celery: enqueue", "/data/use_celery", "redis server"),
    Row("rq: enqueue", "/data/use_rq", "redis server"),
    Row("time.sleep", "/work/use_sleep", "file"),
    Row("subprocess.run", "/work/use_subprocess", "file"),
    Row("os.system", "/work/use_os_system", "file"),
    Row("threading.Thread, queue.Queue", "/work/use_thread", "file"),
    Row("ThreadPoolExecutor", "/work/use_thread_pool", "file"),
    Row("ProcessPoolExecutor", "/work/use_process_pool", "file"),
    Row("multiprocessing.Process, Queue", "/work/use_process", "file"),
    Row("asyncio.run, gather, to_thread", "/work/use_asyncio", "file"),
    Row("asyncio: subprocess", "/work/use_asyncio_subprocess", "file"),
    Row("anyio", "/work/use_anyio", "file"),
    Row("uvloop", "/work/use_uvloop", "file"),
    Row("trio", "/work/use_trio", "file"),
    Row("logging", "/work/use_logging", "nothing"),
    Row("structlog", "/work/use_structlog", "nothing"),
    Row("loguru", "/work/use_loguru", "nothing"),
    Row("numpy", "/work/use_numpy", "nothing"),
    Row("Pillow", "/work/use_pillow", "nothing"),
    Row("lxml", "/work/use_lxml", "nothing"),
    Row("pydantic", "/work/use_pydantic", "nothing"),
    Row("Flask", "/flask/wait", "file", names_itself=True),
    Row("Flask, async view", "/flask/async", "file", names_itself=True),
    Row("Flask, stream", "/flask/stream", "file", names_itself=True),
    Row("Django, PostgreSQL", "/django/query", "postgres", names_itself=True),
    Row("Django, async view, PostgreSQL", "/django/async", "postgres", names_itself=True),
    Row("asgiref, async_to_sync and back", "/django/to-and-fro", "postgres", names_itself=True),
    Row("Django, stream", "/django/stream", "file", names_itself=True),
    Row("Bottle", "/bottle/wait", "file", names_itself=True),
    Row("Falcon", "/falcon/wait", "file", names_itself=True),
    Row("Pyramid", "/pyramid/wait", "file", names_itself=True),
    Row("CherryPy", "/cherrypy/wait", "file", names_itself=True),
    Row("a2wsgi", "/a2wsgi/wait", "file", names_itself=True),
    Row("simple-websocket", "/simple-websocket", "file", speak=talk),
    Row("flask-sock", "/flask-sock/wait", "file", names_itself=True, speak=talk),
    Row("gevent-websocket", "/gevent-websocket", "file", speak=talk),
    Row("Flask-SocketIO, polling", "/socketio", "file", speak=call("polling")),
    Row("Flask-SocketIO, WebSocket", "/socketio", "file", speak=call("websocket")),
    Row(
        "Flask-SocketIO, polling, then WebSocket",
        "/socketio",
        "file",
        speak=call("polling", "websocket"),
    ),
    # the last, as it changes asyncio for the others of its process
    Row("nest_asyncio", "/work/use_nest_asyncio", "file"),
]

MOUNTS = {
    "/neighbour": "site_:neighbour",
    "/web": "web:app",
    "/data": "data:app",
    "/work": "work:app",
    "/django": "djangoed:app",
    **{
        f"/{name}": f"frameworks:{name}_app"
        for name in ("flask", "bottle", "falcon", "pyramid", "cherrypy", "a2wsgi")
    },
    **{
        f"/{name}": f"talks:{name.replace('-', '_')}_app"
        for name in ("simple-websocket", "flask-sock", "gevent-websocket", "socketio")
    },
}
