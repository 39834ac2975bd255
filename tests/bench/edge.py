"""The servers behind nginx, with the configuration of the stack: CPU of both counts together.

Owns what of that configuration cannot be as it is here: paths, ports, one worker process instead of
two, and what nginx before 1.30 does not know. The load comes as from a load balancer that is
trusted, so that each request has a client of its own.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from servers import (
    CACHE,
    DIRECT,
    GATEWAY_PACKAGES,
    ROOT,
    Place,
    Server,
    uwsgi_protocol,
)

import apps

PREFIX = "nginx-"  # of the names of those behind it
SHIPPED = ROOT / "nginx"
SINCE_1_30 = (
    (r"\$is_request_port\$request_port", ""),
    (r":\$request_port", ":"),
    (r"(early_hints|add_header_inherit) [^;]+;", ""),
)
# What the uwsgi protocol carries as variables, which the app needs beside the header fields.
UWSGI_PASS = """
    uwsgi_pass gateway;
    uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param REQUEST_URI $request_uri;
    uwsgi_param PATH_INFO $document_uri;
    uwsgi_param QUERY_STRING $query_string;
    uwsgi_param CONTENT_TYPE $content_type;
    uwsgi_param CONTENT_LENGTH $content_length;
    uwsgi_param SERVER_PROTOCOL $server_protocol;
    uwsgi_param SERVER_NAME $server_name;
    uwsgi_param SERVER_PORT $server_port;
    uwsgi_param REMOTE_ADDR $remote_addr;
    uwsgi_param REMOTE_PORT $remote_port;
    uwsgi_param REQUEST_SCHEME $scheme;
"""


Location = Callable[[str], str]  # from a location of server.conf to the one of this server


def find_nginx() -> str:
    """Its path, or its name where there is none."""
    # Debian's is where only root's PATH leads
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"


def nginx_version() -> str:
    """Such as "1.30.6"."""
    done = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True)
    return done.stderr.strip().rpartition("/")[2]


def together(*commands: list[str]) -> list[str]:
    """One command that starts several processes, and stops them on SIGTERM."""
    script = " & ".join(shlex.join(command) for command in commands)
    return ["sh", "-c", f"trap 'trap - TERM; kill 0' TERM; {script} & wait"]


def use_uwsgi(location: str) -> str:
    """The same with the uwsgi protocol: ``proxy_`` has twins, a field is a variable."""
    location = re.sub(r"proxy_(http_version|redirect) [^;]+;", "", location)
    location = location.replace("proxy_pass http://gateway;", UWSGI_PASS)
    location = re.sub(
        r"proxy_set_header (\S+) ([^;]+);",
        lambda line: (
            f"uwsgi_param HTTP_{line[1].upper().replace('-', '_')} {line[2]} if_not_empty;"
        ),
        location,
    )
    return location.replace(" proxy_", " uwsgi_")


def use_nothing(location: str) -> str:
    """The response of the app, from nginx itself."""
    answer = apps.HELLO.decode().replace("\n", "\\n")
    return location.replace(
        "proxy_pass http://gateway;", f'default_type text/plain; return 200 "{answer}";'
    )


def nginx(place: Place, behind: Place, location: Location) -> list[str]:
    """nginx at ``place``'s port before what listens on ``behind``; writes its configuration."""
    folder = CACHE / f"nginx-{place.port}"
    folder.mkdir(exist_ok=True)
    config, server = folder / "nginx.conf", folder / "server.conf"
    texts = {
        config: (SHIPPED / "nginx.conf").read_text(),
        server: location((SHIPPED / "server.conf").read_text()),
    }
    changes = [
        (r"daemon off;", f"daemon off;\nuser {'root' if os.getuid() == 0 else 'nobody'};"),
        (r"worker_processes 2;", "worker_processes 1;"),
        (r" /tmp/", f" {folder}/"),
        (r"unix:/run/http/gateway.sock", behind.address),
        (r"listen 8080 ", f"listen {place.address} "),
        (r"listen 127.0.0.1:8081", f"listen unix:{folder}/status.sock"),
        (r"/etc/nginx/server.conf", str(server)),
        (r"include /etc/nginx/extra/\*.conf;", "set_real_ip_from 127.0.0.0/8;"),
        (r"/usr/share/nginx/gateway", str(SHIPPED)),
    ]
    if tuple(map(int, nginx_version().split(".")[:2])) < (1, 30):
        changes += SINCE_1_30
    for file, text in texts.items():
        for pattern, ours in changes:
            text = re.sub(pattern, ours, text)
        file.write_text(text)
    (folder / "status.sock").unlink(missing_ok=True)
    return [find_nginx(), "-e", "stderr", "-c", str(config)]


def behind_nginx(server: Server, location: Location = str) -> Server:
    """``server`` on a Unix socket behind nginx."""

    def command(bin_: Path, app: str, place: Place) -> list[str]:
        behind = Place(place.port, str(CACHE / f"behind-{place.port}.sock"))
        Path(behind.unix).unlink(missing_ok=True)
        return together(server.command(bin_, app, behind), nginx(place, behind, location))

    name, setup = f"{PREFIX}{server.name}", f"nginx, then `{server.name}`"
    return replace(server, name=name, command=command, setup=setup)


def nginx_alone(bin_: Path, app: str, place: Place) -> list[str]:
    return nginx(place, place, use_nothing)


UWSGI = replace(DIRECT["uwsgi"], command=uwsgi_protocol)
BEHIND = {
    server.name: server
    for server in (
        *(
            behind_nginx(DIRECT[name])
            for name in ("gateway-log", "gateway", "gateway-pool", "granian", "gunicorn")
        ),
        replace(
            behind_nginx(UWSGI, use_uwsgi), setup="nginx, then uWSGI with 8 threads by uwsgi_pass"
        ),
        Server("nginx", "", GATEWAY_PACKAGES, nginx_alone, "nginx gives the answer itself"),
    )
}
