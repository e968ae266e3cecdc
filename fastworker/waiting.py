"""Says in the log what a worker or a nanny waits for before it has a scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator

from distributed.comm import get_address_host_port

#: Seconds until the first line, and from each line to the next.
FIRST, NEXT = 1.0, 60.0


async def say_what_it_waits_for(
    logger: logging.Logger, address: str, waits: Callable[[], bool] = lambda: True
) -> None:
    """Log after a second, and then every minute, that no scheduler has answered yet.

    Runs until it is cancelled; says nothing while ``waits`` returns False.
    """
    pause = FIRST
    while True:
        await asyncio.sleep(pause)
        if waits():
            reason = await _unknown_host(address)
            logger.warning("Still waiting for a scheduler at %s%s", address, reason)
            pause = NEXT


async def _unknown_host(address: str) -> str:
    """ ": unknown host NAME" if the host of an address has no address itself, otherwise ""."""
    try:
        host, port = get_address_host_port(address)
        await asyncio.get_running_loop().getaddrinfo(host, port)
    except socket.gaierror:
        return f": unknown host {host}"
    except (OSError, ValueError):  # no protocol over IP, for example
        pass
    return ""


@contextlib.contextmanager
def saying_that_it_waits_for_file(logger: logging.Logger, path: str) -> Iterator[None]:
    """Log after a second, and then every minute, that there is no such scheduler file yet.

    In a thread, as the calling thread waits for the file.
    """
    found = threading.Event()

    def say() -> None:
        pause = FIRST
        while not found.wait(pause):
            logger.warning("Still waiting for a scheduler, which is to write %s", path)
            pause = NEXT

    threading.Thread(target=say, name="fastworker-waiting", daemon=True).start()
    try:
        yield
    finally:
        found.set()
