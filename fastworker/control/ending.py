"""Ends the process of a worker that is told to end and cannot; has a crash write the stacks.

While a worker closes it waits for tasks, plugins, preloads, peers and its threads. User code among
them may never return, or block the event loop. In a process that exists for the worker alone, a
thread of this module waits for a deadline. Then it logs what has not ended, and ends the process.
The signal that tells the process to end sets the deadline, or else the worker when it begins to
close.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import multiprocessing
import os
import signal
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

from fastworker.config import worker_setting

logger = logging.getLogger(__name__)

#: The name that a nanny of distributed gives to the process of its worker.
NANNYS_CHILD = "Dask Worker process (from Nanny)"

#: Exit status of a process that was ended here.
EXIT_STATUS = 1

#: Seconds after the deadline at which faulthandler ends the process, if a task that keeps the GIL
#: prevents this module's thread from running.
LAST_RESORT = 5.0

#: Held once this process has a deadline, and never released. A lock, since several event loops and
#: a signal handler may try to set the deadline at the same time.
_deadline = threading.Lock()


def in_own_process() -> bool:
    """Whether this process exists for its workers alone, so that it may end with them.

    True if a nanny has started it, or if the calling thread is the main thread and runs
    ``dask worker`` or ``fastworker``.
    """
    if multiprocessing.current_process().name == NANNYS_CHILD:
        return True
    return threading.current_thread() is threading.main_thread() and _command() is not None


def _command() -> click.Context | None:
    """The context of the command that starts workers, if the calling thread runs it."""
    from distributed.cli.dask_worker import main as original

    context = click.get_current_context(silent=True)
    if context is None or context.command.callback is None or original.callback is None:
        return None
    ours = inspect.unwrap(context.command.callback) is inspect.unwrap(original.callback)
    return context if ours else None


def prepare_process() -> None:
    """Set up a process that exists for its workers alone; to be called before a worker is made.

    Raises ValueError for a bad value of a setting.
    """
    _leave_stacks_of_crash()
    _leave_interrupts_to_nanny()


def _leave_stacks_of_crash() -> None:
    """Have a crash of this process, if it exists for its workers alone, write stacks to stderr.

    Raises ValueError if ``fastworker.worker.faulthandler`` is neither true nor false.
    """
    wanted = worker_setting("faulthandler")
    if wanted and in_own_process() and not faulthandler.is_enabled():
        # They raise if stderr is no file, or None
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.enable()


def _leave_interrupts_to_nanny() -> None:
    """Have the process of a nanny's worker ignore SIGINT.

    Ctrl-C in a terminal reaches the nanny too, which closes the worker. A notebook that interrupts
    a cell sends SIGINT to the workers of its cluster too, which are to stay. A handler that a
    preload sets later replaces this one.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and multiprocessing.current_process().name == NANNYS_CHILD:
        # Not SIG_IGN: programs that tasks start would inherit it
        signal.signal(signal.SIGINT, _do_nothing)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def end_in_time(
    what: str,
    close_timeout: float,
    loop: asyncio.AbstractEventLoop,
    clean_up: Callable[[], object],
) -> None:
    """Give this process a deadline to end, if it exists for its workers alone.

    Does nothing in any other process, or once a deadline has been set.

    Parameters
    ----------
    what
        What was told to end, for the log.
    close_timeout
        Seconds that closing may take. ``fastworker.worker.end-timeout`` is added.
    loop
        The event loop whose unfinished tasks are logged.
    clean_up
        Called before the process ends; what it raises is ignored.
    """
    grace = worker_setting("end-timeout")
    if grace is not None and in_own_process():
        _set_deadline(what, close_timeout + grace, loop, clean_up)


def end_in_time_after_signals(
    what: str,
    close_timeout: float,
    loop: asyncio.AbstractEventLoop,
    clean_up: Callable[[], object],
) -> None:
    """Have SIGINT and SIGTERM set the deadline as soon as they arrive.

    The handlers of the command of workers only wake the event loop, which may be blocked. Does
    nothing in any other process, or if the command has no handlers. Parameters as ``end_in_time``.
    """
    grace = worker_setting("end-timeout")
    if threading.current_thread() is not threading.main_thread() or _command() is None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        ours = isinstance(handler, _Handler)
        if callable(handler) and not ours and handler is not signal.default_int_handler:
            signal.signal(number, _Handler(handler, what, close_timeout, grace, loop, clean_up))


class _Handler:
    """A signal handler that sets the deadline, then calls the former handler."""

    def __init__(
        self,
        before: Callable[[int, FrameType | None], Any],
        what: str,
        close_timeout: float,
        grace: float | None,
        loop: asyncio.AbstractEventLoop,
        clean_up: Callable[[], object],
    ) -> None:
        self.before = before
        self.what = what
        self.seconds = None if grace is None else close_timeout + grace
        self.loop = loop
        self.clean_up = clean_up

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global _signal
        _signal = number
        if self.seconds is not None:
            what = f"{self.what} (reason: signal-{number})"
            _set_deadline(what, self.seconds, self.loop, self.clean_up)
        self.before(number, frame)


#: The signal that has told this process to end.
_signal: int | None = None


def told_by_signal() -> bool:
    """Whether a signal has told the command that runs in this process to end."""
    return _signal is not None


def _set_deadline(
    what: str, seconds: float, loop: asyncio.AbstractEventLoop, clean_up: Callable[[], object]
) -> None:
    """Set the deadline, if there is none. A signal handler may call it, so it waits for no lock."""
    if not _deadline.acquire(blocking=False):
        return
    returned = threading.Event()
    # It raises if stderr is no file, or None
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        faulthandler.dump_traceback_later(seconds + LAST_RESORT, exit=True)
    context = _command()
    if context is not None:
        context.call_on_close(returned.set)
        context.call_on_close(faulthandler.cancel_dump_traceback_later)
    start_new_thread(_end_late, (what, seconds, loop, clean_up, returned))


def _end_late(
    what: str,
    seconds: float,
    loop: asyncio.AbstractEventLoop,
    clean_up: Callable[[], object],
    returned: threading.Event,
) -> None:
    threading.Event().wait(seconds)
    if returned.is_set() and threading.main_thread().is_alive():
        # A program called the command and goes on after it. When Python ends, it marks the main
        # thread as ended before it waits for the other threads.
        return
    try:
        waits = "".join(f"\n  {line}" for line in _unfinished(loop))
        logger.error(
            "%s has not ended within %g s; ending process %d. It still has:%s",
            what,
            seconds,
            os.getpid(),
            waits,
        )
        with contextlib.suppress(Exception):
            clean_up()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(EXIT_STATUS)


def _unfinished(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """A line for each asyncio task and for each other thread: its name and its position."""
    tasks: set[asyncio.Task[object]] = set()
    with contextlib.suppress(RuntimeError):  # the set changed while it was read
        tasks = asyncio.all_tasks(loop)
    for task in tasks:
        with contextlib.suppress(Exception):
            yield f"asyncio task {task.get_name()} ({_coroutine(task)}) {_awaits(task)}"
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread is not threading.current_thread() and frame is not None:
            kind = "daemon thread" if thread.daemon else "thread"
            yield f"{kind} {thread.name} at {_place(frame)}"


def _coroutine(task: asyncio.Task[object]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", None) or repr(coroutine)


def _awaits(task: asyncio.Task[object]) -> str:
    """The positions of a task's coroutines, from the outermost to the innermost."""
    places = []
    coroutine: object = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        places.append(_place(frame))
        coroutine = getattr(coroutine, "cr_await", None)
    return f"at {', '.join(places)}" if places else "that has not begun"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
