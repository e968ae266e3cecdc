"""Ends the process of a worker that was told to end and cannot, and has a crash leave a stack.

A worker waits for much while it closes: tasks, plugins, preloads, peers, its threads. Any of them
may be the user's, and may never return. In a process that exists for the worker alone, a thread of
this module gives all of it a deadline, says in the log what has not ended by then, and ends the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import click

from fastworker.config import worker_setting

logger = logging.getLogger(__name__)

#: The name that a nanny of distributed gives to the process of its worker.
NANNYS_CHILD = "Dask Worker process (from Nanny)"

#: Exit status of a process that was ended here.
EXIT_STATUS = 1

#: Guards ``_watched``: a worker closes on its event loop, a process may have several of those.
_lock = threading.Lock()
_watched = False


def in_own_process() -> bool:
    """Whether this process exists for its workers alone, so that it may end with them.

    It does if a nanny has started it, or if the calling thread is the main thread and inside of
    ``dask worker`` or ``fastworker``.
    """
    if multiprocessing.current_process().name == NANNYS_CHILD:
        return True
    return threading.current_thread() is threading.main_thread() and _command() is not None


def _command() -> click.Context | None:
    """The context of the command that starts workers, if the calling thread is inside of it."""
    from distributed.cli.dask_worker import main as stock

    context = click.get_current_context(silent=True)
    if context is None or context.command.callback is None or stock.callback is None:
        return None
    ours = inspect.unwrap(context.command.callback) is inspect.unwrap(stock.callback)
    return context if ours else None


def leave_stacks_of_crash() -> None:
    """Have a crash of this process, if it exists for its workers alone, write stacks to stderr.

    Raises ValueError if ``fastworker.worker.faulthandler`` is neither true nor false.
    """
    wanted = worker_setting("faulthandler")
    if wanted and in_own_process() and not faulthandler.is_enabled():
        # A stderr that is no file, or none at all
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.enable()


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
        Seconds that closing may take anyway. ``fastworker.worker.end-timeout`` comes on top.
    loop
        The event loop whose tasks to name.
    clean_up
        Called before the process ends.
    """
    global _watched
    grace = worker_setting("end-timeout")
    if grace is None or not in_own_process():
        return
    with _lock:
        if _watched:
            return
        _watched = True
    returned = threading.Event()
    context = _command()
    if context is not None:
        context.call_on_close(returned.set)
    threading.Thread(
        target=_end_late,
        args=(what, close_timeout + grace, loop, clean_up, returned),
        name="fastworker-end",
        daemon=True,
    ).start()


def _end_late(
    what: str,
    seconds: float,
    loop: asyncio.AbstractEventLoop,
    clean_up: Callable[[], object],
    returned: threading.Event,
) -> None:
    threading.Event().wait(seconds)
    if returned.is_set() and threading.main_thread().is_alive():
        # The command was called by a program that goes on without it. When Python ends, it marks
        # the main thread as ended before it waits for the others.
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
    """A line for each asyncio task and for each other thread: its name and where it stands."""
    tasks: set[asyncio.Task[object]] = set()
    with contextlib.suppress(RuntimeError):  # changed all the time
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
    """Where a task stands, from the outermost to the innermost of its coroutines."""
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
