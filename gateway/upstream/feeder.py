"""The content of a request on its way to the server, in a greenlet beside the one that reads the
answer: a server may answer before it has all, or stream in both directions.

Refuses to know heads and answers. Source: RFC 9112 §7.1 (chunks), §9.6 (an early answer).
"""

from typing import Any

from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gateway.errors import ClientDisconnected
from gateway.http.head import CHUNKED
from gateway.upstream.link import READ_BYTES, Link


class Feeder:
    """Sends ``begun``, then what is left of ``content``, to ``link``. ``is_complete`` turns true
    once the kernel has all of it. A fault of the client's is raised by whoever reads ``link``."""

    def __init__(self, link: Link, begun: bytes, content: Any, length: int) -> None:
        """``length`` is of what is left in bytes, or CHUNKED."""
        self._link = link
        self._begun = begun
        self._content = content
        self._remaining = length
        self.is_complete = False
        hub: Any = get_hub()
        self._greenlet = greenlet(self._run, hub)
        self._start = hub.loop.run_callback(self._greenlet.switch)

    def _run(self) -> None:
        try:
            self._link.send(self._begun)
            if self._remaining == CHUNKED:
                self._send_chunks()
            else:
                self._send_rest()
            self.is_complete = True
        except GreenletExit:
            pass
        except ConnectionError:
            pass  # the server reads no more; its answer tells why, or that there is none
        except BaseException as error:  # noqa: BLE001  the client's: it belongs to the request
            self._link.interrupt(error)

    def _send_chunks(self) -> None:
        while piece := self._content.read1(READ_BYTES):
            self._link.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._link.send(b"0\r\n\r\n")

    def _send_rest(self) -> None:
        while self._remaining:
            piece = self._content.read1(min(self._remaining, READ_BYTES))
            if not piece:
                raise ClientDisconnected("the request's content ended early")
            self._remaining -= len(piece)
            self._link.send(piece)

    def stop(self) -> None:
        """Send no more; at once. Not from the feeder's own greenlet."""
        self._start.stop()
        if not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw()
