"""One call of a RELION program: its output kept, its progress told, its failure in a sentence."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffragan.errors import DiffraganError
from diffragan.progress import Progress

_MPI_SIGNAL = re.compile(r"exited on signal (\d+)")
_NO_WORD = re.compile(r"ERROR:|=== ?Backtrace|=+|-+|mpirun.*|MPI_ABORT.*|in: .*")
_PR_SET_PDEATHSIG = 1  # Linux, <sys/prctl.h>
_TAIL = 65536  # bytes of a log that are looked at for the reason of a failure


@dataclass
class Watch:
    """Told RELION's output bit by bit, tells how far a stage is.

    total: iterations, where that is known beforehand.
    """

    stage: str
    progress: Progress
    total: int | None = None
    _rest: str = ""
    _iteration: int = 0
    _words: dict[str, str] = field(default_factory=dict)

    def feed(self, text: str) -> None:
        """Some more of the output, cut anywhere."""
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        started = re.search(
            r"(?:Descent|optimisation|Maximisation|Expectation) iteration (\d+)(?: of (\d+))?", line
        )
        if started is not None:
            self._iteration = int(started[1])
            self.total = int(started[2]) if started[2] else self.total
        elif (found := re.search(r"Auto-refine: Resolution= ([\d.]+)", line)) is not None:
            self._words["resolution"] = f"{float(found[1]):.1f} Å"
        elif (found := re.search(r"Auto-refine: Angular step= ([\d.]+)", line)) is not None:
            self._words["step"] = f"angles by {float(found[1]):.2g}°"
        elif "has converged, entering last iteration" in line:
            self._words["last"] = "last iteration"
        else:
            return
        word = ", ".join(self._words.values())
        # An iteration that has begun is not done.
        done = max(self._iteration - 1, 0)
        self.progress(self.stage, done, self.total, f"({word})" if word else "")


def run_program(
    words: Sequence[str],
    folder: Path,
    log: Path,
    watch: Watch,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program in a folder to its end; all that it says is added to a log.

    When this process is interrupted, the program and what it has started end too.

    Raises:
        DiffraganError: it can't be started, fails or is killed; with the log's own line.
    """
    name = next((word for word in words if "relion" in word), words[0])
    if shutil.which(words[0]) is None:
        raise DiffraganError(
            f"There is no {words[0]} on the PATH; the installation of RELION is not whole "
            "(Debian: apt-get install relion)."
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        # What was cut off before need not have ended its line.
        file.write(f"{chr(10) if file.tell() else ''}$ {' '.join(words)}\n".encode())
        file.flush()
        start = file.tell()
        try:
            program = subprocess.Popen(
                list(words),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            raise DiffraganError(
                f"{words[0]} can't be started ({error.strerror or error}); repair the "
                "installation of RELION."
            ) from None
        try:
            for part in _output(program):
                file.write(part)
                file.flush()
                watch.feed(part.decode("utf-8", "replace"))
            code = program.wait()
        except BaseException:
            _end(program)
            raise
    if code:
        raise DiffraganError(failure(name, code, _tail(log, start), log))


def failure(name: str, code: int, text: str, log: Path) -> str:
    """In one sentence, why a program failed.

    Args:
        code: its exit status, negative for a signal. text: the end of what it said.
    """
    killed = _MPI_SIGNAL.search(text)
    number = -code if code < 0 else (int(killed[1]) if killed is not None else 0)
    if not number and code > 128 and code - 128 in {int(s) for s in signal.Signals}:
        number = code - 128
    way_on = f"its log is {log}, and the same command goes on from the last whole iteration."
    if number == signal.SIGKILL:
        return (
            f"{name} was killed (signal 9), as happens where memory runs out; fewer processes "
            "(--set relion.ranks=3) or smaller images (--set relion.size_px=...) need less; "
            f"{way_on}"
        )
    said = reason_of_failure(text)
    if number and number != signal.SIGABRT:
        return f"{name} ended by signal {number} ({signal_name(number)}); {said}; {way_on}"
    return f"{name} failed and says “{said}”; {way_on}"


def signal_name(number: int) -> str:
    """A signal by its name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def reason_of_failure(text: str) -> str:
    """The log's own line for a failure: what follows the last ERROR, else its last line."""
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    errors = [k for k, line in enumerate(lines) if line.startswith("ERROR")]
    for k in reversed(errors):
        for line in lines[k : k + 3]:
            word = line.removeprefix("ERROR:").strip()
            if word and not _NO_WORD.fullmatch(word):
                return word.rstrip(".")[:300]
    plain = [line for line in lines if not _NO_WORD.fullmatch(line) and "~~(" not in line]
    return plain[-1].rstrip(".")[:300] if plain else "nothing"


def _output(program: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert program.stdout is not None
    with program.stdout:
        while part := os.read(program.stdout.fileno(), 65536):
            yield part


def _end_with_parent() -> None:
    """Between fork and exec: have Linux end the program when this process dies, however it does,
    as nobody could watch or stop it then."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(program: subprocess.Popen[bytes]) -> None:
    """End a program and what it has started."""
    for word in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, word)
        except ProcessLookupError:
            return
        try:
            program.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        return


def _tail(log: Path, start: int) -> str:
    """What this call added to the log, its last part."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL))
        return file.read().decode("utf-8", "replace")
