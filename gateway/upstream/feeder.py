"""Sends the content of a request, in a greenlet of its own while another reads the response: a
server may respond before it has all of the content, or stream in both directions.

Refuses to know heads and responses. Source: RFC 9112 §7.1 (chunks), §9.6 (early responses).
"""

from typing import Any

from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gateway.errors import ClientDisconnected
from gateway.protocol.framing import CHUNKED
from gateway.upstream.link import READ_BYTES, Link


class _Held(BaseException):
    """Ends a wait for input from the client, which another greenlet will read instead."""


class Feeder:
    """Sends ``begun``, then the rest of ``content``, to ``link``. ``is_complete`` becomes true when
    the kernel has accepted all of it. Errors of the client are raised in the greenlet that reads
    from ``link``."""

    def __init__(self, link: Link, begun: bytes, content: Any, length: int) -> None:
        """``length`` is the number of bytes left, or CHUNKED."""
        self._link = link
        self._begun = begun
        self._content = content
        self._remaining = length
        self.is_complete = False
        self._is_held = self._is_reading = self._is_parked = False
        hub: Any = get_hub()
        self._hub = hub
        self._holder: Any = hub
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
            pass  # the server reads no more; its response, or the lack of one, is reported
        except BaseException as error:  # noqa: BLE001  the client's, so for the request
            self._link.interrupt(error)

    def _send_chunks(self) -> None:
        while piece := self._read(READ_BYTES):
            self._link.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._link.send(b"0\r\n\r\n")

    def _send_rest(self) -> None:
        while self._remaining:
            piece = self._read(min(self._remaining, READ_BYTES))
            if not piece:
                raise ClientDisconnected("the request's content ended early")
            self._remaining -= len(piece)
            self._link.send(piece)

    def _read(self, size: int) -> bytes:
        while True:
            self._park(self._hub)
            self._is_reading = True
            try:
                return self._content.read1(size)  # type: ignore[no-any-return]
            except _Held:
                self._is_reading = False
                self._park(self._holder)
            finally:
                self._is_reading = False

    def _park(self, instead: Any) -> None:
        """Let ``instead`` run while sending is on hold."""
        self._is_parked = self._is_held
        while self._is_held:
            instead.switch()
            instead = self._hub
        self._is_parked = False

    @property
    def is_at_work(self) -> bool:
        """Whether there is more to send and the server still accepts it."""
        return not self.is_complete and not self._greenlet.dead

    def hold(self) -> None:
        """Read nothing from the client until ``go_on``. What was read is still sent."""
        self._is_held = True
        if self._is_reading:
            self._holder = getcurrent()
            self._greenlet.throw(_Held)

    def go_on(self) -> None:
        """Continue after ``hold``."""
        self._is_held = False
        if self._is_parked:
            self._start = self._hub.loop.run_callback(self._greenlet.switch)

    def stop(self) -> None:
        """Stop immediately. Not to be called in the feeder's own greenlet."""
        self._start.stop()
        if not self._greenlet.dead:
            self._greenlet.parent = getcurrent()
            self._greenlet.throw()
