"""Ending workers from another process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed.comm import CommClosedError, connect
from distributed.security import Security
from distributed.utils import wait_for


def shutdown(
    addresses: str | Iterable[str],
    *,
    timeout: float | str | None = None,
    reason: str = "shutdown",
    security: Security | None = None,
) -> list[str] | Coroutine[Any, Any, list[str]]:
    """Connect to workers and terminate them, with their nannies.

    In a script it returns when they have ended. Where an event loop is running it returns a
    coroutine to await::

        fastworker.shutdown(["tcp://10.0.0.1:4321", "tcp://10.0.0.2:4321"])
        await fastworker.shutdown(worker.address)

    Parameters
    ----------
    addresses
        The workers' own addresses, such as ``tcp://10.0.0.1:4321``; one or several.
    timeout
        Seconds, or a text like "5s", for each worker to answer, and again to end. By default
        the configured ``distributed.comm.timeouts.connect``.
    reason
        A text for the workers' logs.
    security
        Certificates, for workers that speak TLS.

    Returns
    -------
    The addresses that were terminated.

    Raises
    ------
    ConnectionError
        Workers could not be reached, or did not end in time; the error names them. All other
        workers have been terminated.
    TypeError
        An element of ``addresses`` is not a text.
    """
    addresses = [addresses] if isinstance(addresses, str) else list(addresses)
    for address in addresses:
        if not isinstance(address, str):
            raise TypeError(f"an address must be a str such as 'tcp://host:1234', got {address!r}")
    if timeout is None:
        timeout = dask.config.get("distributed.comm.timeouts.connect")
    seconds: float = parse_timedelta(timeout, default="s")
    ending = _terminate_all(addresses, seconds, reason, security or Security())
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(ending)
    return ending


async def _terminate_all(
    addresses: list[str], timeout: float, reason: str, security: Security
) -> list[str]:
    outcomes = await asyncio.gather(
        *(_terminate(address, timeout, reason, security) for address in addresses),
        return_exceptions=True,
    )
    failures = []
    for address, outcome in zip(addresses, outcomes, strict=True):
        if isinstance(outcome, (OSError, ValueError, asyncio.TimeoutError)):
            failures.append(f"{address} ({outcome or type(outcome).__name__})")
        elif isinstance(outcome, BaseException):
            raise outcome
    if failures:
        raise ConnectionError(f"could not terminate {', '.join(failures)}")
    return addresses


async def _terminate(address: str, timeout: float, reason: str, security: Security) -> None:
    comm = await connect(address, timeout=timeout, **security.get_connection_args("client"))
    try:
        await comm.write({"op": "terminate", "reason": reason, "reply": True})
        # The worker sends no answer; it closes the connection last of all.
        await wait_for(comm.read(), timeout)
    except CommClosedError:
        pass
    except asyncio.TimeoutError:
        raise TimeoutError(f"still there after {timeout:g} s") from None
    finally:
        comm.abort()
