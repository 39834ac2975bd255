"""A file system that answers for a while, and then no more: as a mount of the network does whose
server has gone.

A real mount (FUSE), of one directory with a few files. Source: linux/fuse.h, fuse(4), mount(2).
"""

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

DEVICE = "/dev/fuse"
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, OPENDIR = (
    *(1, 2, 3, 14, 15, 17, 18, 25, 26, 27),
)
INTERRUPT, READDIR, RELEASEDIR, ACCESS, BATCH_FORGET = 36, 28, 29, 34, 42
MNT_DETACH = 2
ROOT = 1
_HEADER = struct.Struct("<IIQQIIII")
_libc = ctypes.CDLL(None, use_errno=True)


class HangingMount:
    """Mounted at ``path`` from the beginning; ``files`` are its contents by name, and may change.

    While it hangs, whoever touches it waits, and can only be killed.
    """

    def __init__(self, path: Path, files: dict[str, str]) -> None:
        self.path = path
        self.files = files
        self._names = dict(enumerate(files, ROOT + 1))
        self._device = os.open(DEVICE, os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"hanging", os.fsencode(path), b"fuse", 0, options.encode()):
            os.close(self._device)
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hang(self) -> None:
        """Answer nothing from now on."""
        os.write(self._wake, b"x")
        self._thread.join()

    def answer(self) -> None:
        """Answer again, first what was asked meanwhile."""
        os.read(self._woken, 1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Whoever still waits gets an error; and it is mounted no more."""
        if self._thread.is_alive():
            self.hang()
        os.close(self._device)
        _libc.umount2(os.fsencode(self.path), MNT_DETACH)
        os.close(self._woken)
        os.close(self._wake)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._device, self._woken], [], [])
            if self._woken in ready:
                return
            with contextlib.suppress(InterruptedError, FileNotFoundError):  # it was taken back
                self._answer(os.read(self._device, 2**18))

    def _answer(self, request: bytes) -> None:
        _, code, unique, node, *_ = _HEADER.unpack_from(request)
        if code in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        try:
            answer = self._find_answer(code, node, request[_HEADER.size :])
            error = 0
        except OSError as why:
            answer, error = b"", -(why.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # whoever asked was killed
            os.write(self._device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)

    def _find_answer(self, code: int, node: int, rest: bytes) -> bytes:
        if code == INIT:
            _, minor, ahead, _ = struct.unpack_from("<IIII", rest)
            return struct.pack("<IIIIHHIIHH", 7, min(minor, 31), ahead, 0, 8, 8, 4096, 1, 0, 0) + (
                b"\0" * 32
            )
        if code == LOOKUP:
            name = rest.partition(b"\0")[0].decode()
            found = [number for number, each in self._names.items() if each == name]
            if not found:
                raise OSError(errno.ENOENT, name)
            # nothing may be remembered: each look is a question
            return struct.pack("<QQQQII", found[0], 0, 0, 0, 0, 0) + self._attributes(found[0])
        if code == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        if code in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 1, 0)  # FOPEN_DIRECT_IO
        if code == READ:
            _, offset, size = struct.unpack_from("<QQI", rest)
            return self.files[self._names[node]].encode()[offset : offset + size]
        if code == READDIR:
            _, offset, _ = struct.unpack_from("<QQI", rest)
            return b"".join(map(_describe, self._names.items()))[offset:]
        if code in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, str(code))

    def _attributes(self, node: int) -> bytes:
        content = "" if node == ROOT else self.files[self._names[node]]
        mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o755
        size, changed = len(content.encode()), hash(content) % 2**30
        return struct.pack(
            "<QQQQQQIIIIIIIIII",
            *(node, size, 1, changed, changed, changed, 0, 0, 0),
            *(mode, 1, 0, 0, 0, 4096, 0),
        )


def _describe(entry: tuple[int, str]) -> bytes:
    """A directory's entry; all of them are read at once."""
    number, name = entry
    return struct.pack("<QQII", number, 2**32, len(name), stat.S_IFREG >> 12) + (
        name.encode().ljust((len(name) + 7) // 8 * 8, b"\0")
    )


@contextlib.contextmanager
def mounting(path: Path, files: dict[str, str]) -> Iterator[HangingMount]:
    """One at the new directory ``path``; the test is skipped where nothing may be mounted."""
    path.mkdir()
    try:
        Path("/proc/self/stack").read_text()  # by which it is seen who waits
        mount = HangingMount(path, files)
    except OSError as error:
        pytest.skip(f"no file system that hangs can be mounted here ({DEVICE}): {error.strerror}")
    try:
        yield mount
    finally:
        mount.end()


def count_waiting(pid: int) -> int:
    """How many threads of a process wait for such a file system."""
    return sum(map(_is_waiting, Path(f"/proc/{pid}/task").glob("*/stack")))


def _is_waiting(stack: Path) -> bool:
    try:
        return "request_wait_answer" in stack.read_text()
    except OSError:  # the thread has ended
        return False
