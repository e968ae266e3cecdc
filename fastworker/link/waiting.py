"""Says in the log what a worker or a nanny waits for before it has a scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distributed.comm import connect, get_address_host_port

#: Seconds before the first attempt to connect, for its answer, and from each line to the next.
LOOK, ANSWER, NEXT = 0.5, 0.5, 60.0


async def say_what_it_waits_for(
    logger: logging.Logger,
    address: str,
    connection_args: Mapping[str, Any],
    waits: Callable[[], bool] = lambda: True,
) -> None:
    """Log after a second, and then every minute, that no scheduler has answered yet, and why.

    Runs until it is cancelled; says nothing while ``waits`` returns False. ``connection_args`` are
    those of the waiting server's own connections.
    """
    pause = LOOK
    while True:
        await asyncio.sleep(pause)
        if waits():
            reason, _ = await asyncio.gather(
                _reason(address, connection_args), asyncio.sleep(ANSWER)
            )
            logger.warning("Still waiting for a scheduler at %s%s", address, reason)
            pause = NEXT


async def _reason(address: str, connection_args: Mapping[str, Any]) -> str:
    """Why an address cannot be connected to, with ": " before it; "" if that is unknown.

    distributed's servers try again and log nothing, whether the peer rejects their certificates or
    nothing listens at the port.
    """
    try:
        host, port = get_address_host_port(address)
        await asyncio.get_running_loop().getaddrinfo(host, port)
    except socket.gaierror:
        return f": unknown host {host}"
    except (OSError, ValueError):  # no protocol over IP, for example
        pass
    try:
        comm = await connect(address, timeout=ANSWER, **connection_args)
    except Exception as error:  # what listens there may be anything, and may send anything
        return f": {_first_cause(error)}"
    comm.abort()
    return ""


def _first_cause(error: BaseException) -> str:
    """The text of the first error of a chain of causes; without one, as a timeout, of a later."""
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text = str(error) or text
    return text


@contextlib.contextmanager
def saying_that_it_waits_for_file(logger: logging.Logger, path: str) -> Iterator[None]:
    """Log after a second, and then every minute, that there is no such scheduler file yet.

    In a thread, as the calling thread waits for the file.
    """
    found = threading.Event()

    def say() -> None:
        pause = LOOK + ANSWER
        while not found.wait(pause):
            logger.warning("Still waiting for a scheduler, which is to write %s", path)
            pause = NEXT

    threading.Thread(target=say, name="fastworker-waiting", daemon=True).start()
    try:
        yield
    finally:
        found.set()
