"""One run at a time on one output."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffragan.errors import DiffraganError


class Lock:
    """Keeps other runs off an output until `release`, or until this process is gone.

    The operating system holds it, by `flock(2)` on `.NAME.lock` beside the output: a run that was
    killed leaves the file, and the file alone keeps nobody out. Where the file system has no such
    locks, and on Windows, nobody is kept out.

    Raises:
        DiffraganError: another run has it, on this machine or on one that shares the folder.
    """

    def __init__(self, output: Path) -> None:
        whole = output.absolute()
        self.path = whole.with_name(f".{whole.name}.lock")
        self._file: int | None = None
        if sys.platform == "win32":
            return
        import fcntl

        while self._file is None:
            file = self._opened(output)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(file, 200).decode("utf-8", "replace").strip()
                os.close(file)
                raise DiffraganError(
                    f"Another run is writing {output} ({owner or 'it does not tell which'}); wait "
                    "for its end, or choose another --out."
                ) from None
            except OSError:  # no locks on this file system
                os.close(file)
                return
            if self._is_still(file):
                self._file = file
            else:  # its last owner removed it meanwhile
                os.close(file)
        os.truncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def _opened(self, output: Path) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DiffraganError(
                f"{output} can't be written ({error.strerror}); choose another --out."
            ) from None

    def _is_still(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.fstat(file).st_ino == self.path.stat().st_ino
        return False

    def release(self) -> None:
        """Let others in; again does nothing."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """An output kept to this run; see `Lock`."""
    lock = Lock(output)
    try:
        yield
    finally:
        lock.release()
