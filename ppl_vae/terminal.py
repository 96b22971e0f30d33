"""The terminal, which may go before the work is done: signals that ask for an end, and streams that
nobody reads any more.

Knows signals and standard streams; imports nothing that takes long, so that it stands before the
libraries are loaded.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = [
    "Stream",
    "deferred_interrupts",
    "interrupts",
    "keep_descriptors",
    "let_streams_go",
    "patient_streams",
    "stop_at_once",
]

log = logging.getLogger(__name__)
# Ctrl-C, the end that a batch system or a container asks for, and a lost connection: one handler
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _taken(number: int) -> bool:
    """Whether a signal may be handled here: not one that is ignored (nohup, a background job), nor
    one that a program of the user's handles itself.
    """
    ours = (signal.SIG_DFL, signal.default_int_handler, _stop)
    return signal.getsignal(number) in ours


def _stop(number: int, frame: Any) -> None:
    os.write(2, b"ppl-vae: interrupted\n")
    os._exit(130)


def stop_at_once() -> None:
    """From now on each of the signals ends the process with one line: while libraries are loaded,
    whose code may take an exception for its own, and after the last word.
    """
    for number in SIGNALS:
        if _taken(number):
            signal.signal(number, _stop)


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Each of the signals is a `KeyboardInterrupt` inside the block, as Ctrl-C is."""
    with _handled(signal.default_int_handler):
        yield


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[list[bool]]:
    """The signals wait for the work in hand: the list is no longer empty once one came. A second
    Ctrl-C is immediate.
    """
    noted: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(True)

    with _handled(note):
        yield noted


@contextlib.contextmanager
def _handled(handler: Any) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in SIGNALS if main and _taken(number)]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Stream:
    """A standard stream whose reader may go (`| head`), or that was never there (None): what is
    written then is dropped. A stream that fails otherwise, as on a full disk, is told of once. A
    letter that its encoding lacks becomes a question mark.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._lost = stream, stream is None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text where nobody takes it."""
        self._tried("write", text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop what waited where nobody takes it."""
        self._tried("flush")

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return not self._lost and self._stream.isatty()

    def _tried(self, name: str, *arguments: str) -> None:
        if self._lost:
            return
        try:
            getattr(self._stream, name)(*arguments)
        except BrokenPipeError:
            self._lost = True
        except (OSError, ValueError) as error:
            self._lost = True
            log.warning("a standard stream is lost (%s); the work goes on", error)


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """What is printed inside fails for no reader that is gone and for no letter."""
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
        out.flush()


def keep_descriptors() -> None:
    """For a process of its own: closed descriptors 0 to 2 are taken, so that no file of data gets
    their number.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def let_streams_go() -> None:
    """Before the process ends: what no reader took must not change its exit status."""
    for stream, descriptor in ((sys.__stdout__, 1), (sys.__stderr__, 2)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
