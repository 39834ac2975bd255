"""The admin listener: /healthz (alive) and /readyz (ready), for health checks and load balancers,
and /status, for who looks after the gateway.

Answers from a thread of its own, whatever the workers do. Knows nothing of how the state came.
"""

import json
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gateway.uncaught import report_own

KNOWN = ["/healthz", "/readyz", "/status"]

Status = Callable[[], tuple[bool, dict[str, Any]]]
Report = Callable[[], dict[str, Any]]


class AdminServer(ThreadingHTTPServer):
    """Serves on an open listening socket. ``status`` gives (is it ready, what to say), ``report``
    all that is known."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, status: Status, report: Report) -> None:
        super().__init__(("", 0), AdminHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.status = status
        self.report = report

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self.serve_forever, name="admin", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A health checker that hangs up is no news; all else is a fault of the gateway's own."""
        error = sys.exception()
        if not isinstance(error, OSError):
            report_own("the admin listener", error)


class AdminHandler(BaseHTTPRequestHandler):
    """One request to the admin listener."""

    server: AdminServer
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds a client may be silent

    def do_GET(self) -> None:
        """Answer a probe."""
        try:
            self._answer(*self._find_answer())
        except OSError:
            raise  # it has hung up
        except Exception as error:  # noqa: BLE001  whatever it is
            report_own(f"the admin listener cannot answer {self.path}", error)
            self._answer(500, {"status": "a fault of the gateway's own; its log has the cause"})

    def _find_answer(self) -> tuple[int, dict[str, Any]]:
        is_ready, report = self.server.status()
        if self.path == "/healthz":
            return 200, {"status": "alive"}
        if self.path == "/readyz":
            return 200 if is_ready else 503, report
        if self.path == "/status":
            return 200, self.server.report()
        return 404, {"status": "unknown path", "known": KNOWN}

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, report: dict[str, Any]) -> None:
        body = json.dumps(report).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes are not logged."""
