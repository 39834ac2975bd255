"""A hello with and without a hop: the gateway alone and with a pool, nginx before it and Gunicorn.

Owns these servers and their nginx, which does what the stack's own does: kept-alive connections to
the server behind it, nothing buffered, forwarding fields set. Each answers a hello at its port.
"""

import http.client
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from servers import (
    CACHE,
    GATEWAY_PACKAGES,
    Command,
    NotMeasuredError,
    Place,
    Running,
    Server,
    serve,
)

ANSWER_SECONDS = 120.0
# how far from a server's own port the one behind nginx is; the gateway's admin is one further
BEHIND = 2
NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream server {{
        server {address} max_fails=0;
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Request-ID $request_id;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


def find_nginx() -> str:
    """Its path. Raises NotMeasuredError."""
    # Debian's is where only root's PATH leads
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise NotMeasuredError("nginx is missing; on Debian: apt install nginx-light")
    return found


def describe_nginx() -> str:
    """Its version, or why there is none."""
    try:
        done = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True)
    except NotMeasuredError as error:
        return str(error)
    return done.stderr.strip().rpartition(" ")[2].replace("/", " ")


def together(*commands: list[str]) -> list[str]:
    """One command that runs all, and ends all when it is asked to."""
    script = " & ".join(shlex.join(command) for command in commands)
    return ["sh", "-c", f"trap 'trap - TERM; kill 0' TERM; {script} & wait"]


def nginx(port: int, address: str) -> list[str]:
    """nginx at ``port`` before what listens on ``address``."""
    folder = CACHE / f"nginx-{port}"
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, address=address))
    return [find_nginx(), "-c", str(config)]


def gateway(pool: str) -> Command:
    def command(bin_: Path, app: str, place: Place) -> list[str]:
        mounts = {"/": {"app": app, "pool": pool}}
        return serve(bin_, CACHE / f"hop-{place.port}.yaml", place, mounts)

    return command


def nginx_gateway(pool: str) -> Command:
    def command(bin_: Path, app: str, place: Place) -> list[str]:
        behind = Place(place.port + BEHIND)
        mounts = {"/": {"app": app, "pool": pool}}
        table = CACHE / f"hop-{place.port}.yaml"
        server = serve(bin_, table, behind, mounts, trusted_proxies=["127.0.0.0/8"])
        return together(server, nginx(place.port, behind.address))

    return command


def gunicorn(bin_: Path, bind: str, *more: str) -> list[str]:
    """Gunicorn with one worker of gevent."""
    return [
        *(str(bin_ / "gunicorn"), "--worker-class", "gevent", "--workers", "1"),
        *("--worker-connections", "4000", "--keep-alive", "75", "--bind", bind, *more),
    ]


def nginx_gunicorn_unix(bin_: Path, app: str, place: Place) -> list[str]:
    path = CACHE / f"gunicorn-{place.port}.sock"
    server = gunicorn(bin_, f"unix:{path}", app)
    return together(server, nginx(place.port, f"unix:{path}"))


def nginx_gunicorn_tcp(bin_: Path, app: str, place: Place) -> list[str]:
    bind = f"127.0.0.1:{place.port + BEHIND}"
    return together(gunicorn(bin_, bind, app), nginx(place.port, bind))


OURS, THEIRS = ("", GATEWAY_PACKAGES), ("gunicorn", ("gunicorn[gevent]",))
HOPS = {
    server.name: server
    for server in (
        Server("gateway", *OURS, gateway("main"), "the app in the front worker"),
        Server("gateway-pool", *OURS, gateway("own"), "the app in a pool of its own"),
        Server("nginx-gateway", *OURS, nginx_gateway("main"), "nginx, then `gateway`"),
        Server("nginx-gateway-pool", *OURS, nginx_gateway("own"), "nginx, then `gateway-pool`"),
        Server(
            "nginx-gunicorn", *THEIRS, nginx_gunicorn_unix, "nginx, then Gunicorn's gevent worker"
        ),
        Server(
            "nginx-gunicorn-tcp",
            *THEIRS,
            nginx_gunicorn_tcp,
            "the same, over TCP instead of a Unix socket",
        ),
    )
}


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_served(running: Running, path: str = "/", port: int | None = None) -> bytes:
    """The body of the first 200. Raises NotMeasuredError where none comes."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            status, body = get(port or running.port, path)
        except (OSError, http.client.HTTPException):
            status, body = 0, b""
        if status == 200:
            return body
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"{path} was not served; see {running.log.name}")
        time.sleep(0.02)
