"""What one worker has in flight, in memory that outlives it: who supervises it reads there what it
was doing, and whether its loop still turns.

Owns the layout, for both sides; refuses to know how the texts came about. A slot belongs to a
connection, which has one request in flight at most. It is written once before the app is called,
and freed by one byte: both are on the way of every request.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

SLOT_BYTES = 512
# The moment is big-endian: its first byte is 0 only where it is no moment.
_SLOT = Struct(">d136s48s320s")
_MOUNT_BYTES = 128
# heartbeat, requests, failures, log records dropped; behind them how many slots have ever been in
# use, and the id of the request that keeps the loop from turning
_HEADER = Struct(">dQQQ")
_USED = Struct(">Q")
_HOLDER = Struct(">136s")
_MOMENT = Struct(">d")
# what a moment between some milliseconds and 250 years begins with
_EXPONENTS = (b"\x3f", b"\x40", b"\x41")
_HOLDER_PLACE = _HEADER.size + _USED.size
_FIRST_SLOT = SLOT_BYTES
_PRIVATE_SLOTS = 64
# 10,000 requests a second for 28,000 years; readers of JSON take no larger number as it is
MOST_COUNTED = 2**53


class Recent(NamedTuple):
    """The ``mounts`` of requests in flight and of those that have ended lately; how many have
    ``ended``, as far as it is known: a connection remembers its last request alone."""

    mounts: set[str]
    ended: int


class InFlight:
    """The worker's side. ``descriptor`` is a ``Board``'s; without one it is nobody else's to
    read.

    A request begins with ``write(memory, slot, moment, request_id, client, place)``: the monotonic
    time, and bytes, of which the last is what ``name_place`` gives and the request line. What does
    not fit is cut off. It ends with ``memory[slot] = 0``. ``requests`` and ``failures``, which are
    answers of 500 and above, are counted by connections and published by ``beat``, of which
    ``heartbeat`` is the last; so is what ``count_dropped`` gives, the records of logs that nobody
    has read in time.
    """

    def __init__(self, descriptor: int = -1) -> None:
        size = 0 if descriptor >= 0 else _PRIVATE_SLOTS * SLOT_BYTES  # 0 is all of it
        self.memory: mmap.mmap | bytearray = mmap.mmap(descriptor, size)
        self.write = _SLOT.pack_into
        self.heartbeat = 0.0
        self.requests = 0
        self.failures = 0
        self.count_dropped: Callable[[], int] = int
        self._free: list[int] = []
        self._next = _FIRST_SLOT
        # takes what there is no slot for, and is never read
        self._surplus = len(self.memory) - SLOT_BYTES

    def take(self) -> int:
        """A slot for a connection: the one freed last, so that few pages are touched."""
        if self._free:
            return self._free.pop()
        slot = self._next
        if slot < self._surplus:
            self._next += SLOT_BYTES
            _USED.pack_into(self.memory, _HEADER.size, slot // SLOT_BYTES)
        return slot

    def give_back(self, slot: int) -> None:
        """Its connection has closed."""
        if slot != self._surplus:
            self._free.append(slot)

    def beat(self, now: float) -> None:
        """The loop turns: tell it, and what was counted. ``now`` is monotonic."""
        self.heartbeat = now
        counts = self.requests, self.failures, self.count_dropped()
        _HEADER.pack_into(self.memory, 0, now, *counts)

    def running(self) -> dict[int, float]:
        """The requests in flight: when each began, by slot."""
        begins = self.memory[_FIRST_SLOT : self._find_end() : SLOT_BYTES]
        slots = (_FIRST_SLOT + i * SLOT_BYTES for i, first in enumerate(begins) if first)
        return {slot: _MOMENT.unpack_from(self.memory, slot)[0] for slot in slots}

    def recall(self, since: float, now: float, running: dict[int, float]) -> Recent:
        """Of those in flight, and those that have ended since: they began later than ``since``, or
        were ``running`` then. Moments are monotonic."""
        mounts, ended = set(), 0
        for slot in range(_FIRST_SLOT, self._find_end(), SLOT_BYTES):
            begins = [] if self.memory[slot] else self._restore(slot)
            has_ended = running.get(slot) in begins or any(since <= each <= now for each in begins)
            if self.memory[slot] or has_ended:
                mounts.add(_read(_SLOT.unpack_from(self.memory, slot)[3]).partition("\n")[0])
            ended += has_ended
        return Recent(mounts, ended)

    def _find_end(self) -> int:
        used: int = _USED.unpack_from(self.memory, _HEADER.size)[0]
        return _FIRST_SLOT + used * SLOT_BYTES

    def _restore(self, slot: int) -> list[float]:
        """When the request may have begun that has ended in this slot."""
        rest = bytes(self.memory[slot + 1 : slot + _MOMENT.size])
        return [_MOMENT.unpack(first + rest)[0] for first in _EXPONENTS]

    def note_holder(self, request_id: str) -> None:
        """This request keeps the loop from turning; "" is none."""
        _HOLDER.pack_into(self.memory, _HOLDER_PLACE, request_id.encode())


def name_place(mount: str) -> bytes:
    """What goes before the request line in a slot: the mount's name."""
    name = mount.encode()[:_MOUNT_BYTES].decode("utf-8", "ignore")
    return name.encode() + b"\n"


class Pulse(NamedTuple):
    """How a worker is. ``heartbeat`` is when its loop was last known to turn, 0 before it does;
    the counts are those of that moment."""

    heartbeat: float
    requests: int
    failures: int
    dropped: int


class Request(NamedTuple):
    """One in flight, with "" for what was cut off. ``started`` is monotonic."""

    started: float
    request_id: str
    client: str
    mount: str
    method: str
    target: str
    protocol: str


class Board:
    """The reading side: memory for a worker with so many connections. ``descriptor`` is to be
    inherited by it, and stays open as long as this is in use, in whatever thread.

    It reads instead of mapping, which would make room for what was never touched, and end this
    process where the memory is cut off. A worker may write anything: the memory's size is sealed,
    and what cannot be is not believed. Source: memfd_create(2), fcntl(2) "File Sealing".
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.descriptor = os.memfd_create("gateway-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, (slots + 2) * SLOT_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def pulse(self) -> Pulse:
        """What the worker published last, each count at most ``MOST_COUNTED``."""
        header = os.pread(self.descriptor, _HEADER.size, 0)
        heartbeat, *counts = _HEADER.unpack(header)
        return Pulse(heartbeat, *(min(count, MOST_COUNTED) for count in counts))

    def count(self) -> int:
        """How many requests are in flight now, as far as there are slots."""
        return len(self._read_used())

    def requests(self) -> list[Request]:
        """Those in flight, the oldest first."""
        found = []
        for started, *texts in self._read_used():
            request_id, client, place = (_read(text) for text in texts)
            mount, _, line = place.partition("\n")
            method, target, protocol, *_ = (*line.split(" "), "", "")
            found.append(Request(started, request_id, client, mount, method, target, protocol))
        return sorted(found)

    def holder(self) -> str:
        """The id of the request that was seen to keep the loop from turning; "" for none."""
        return _read(os.pread(self.descriptor, _HOLDER.size, _HOLDER_PLACE))

    def _read_used(self) -> list[tuple[float, bytes, bytes, bytes]]:
        [count] = _USED.unpack(os.pread(self.descriptor, _USED.size, _HEADER.size))
        slots = os.pread(self.descriptor, min(count, self._slots) * SLOT_BYTES, _FIRST_SLOT)
        # a moment that was freed has lost its exponent; one to come, or NaN, was never begun
        now = time.monotonic()
        return [slot for slot in _SLOT.iter_unpack(slots) if 1e-9 < slot[0] <= now]


def _read(text: bytes) -> str:
    return text.rstrip(b"\0").decode("utf-8", "replace")
