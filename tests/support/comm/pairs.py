"""Two ends of a connection, each of either make, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from distributed.comm import Comm, connect, listen
from distributed.comm import tcp as stock
from distributed.comm.registry import backends

from fastworker.comm import backend as native
from support.certificates import Authority

TIMEOUT = 30.0
"""Seconds after which what does not happen is an error."""

BACKENDS: dict[str, dict[str, type]] = {
    "native": {"tcp": native.TCPBackend, "tls": native.TLSBackend},
    "tornado": {"tcp": stock.TCPBackend, "tls": stock.TLSBackend},
}
MAKES = list(BACKENDS)


def run(test: Coroutine[Any, Any, Any], timeout: float = TIMEOUT) -> Any:
    """Run a coroutine in an event loop of its own, for a bounded time."""
    return asyncio.run(asyncio.wait_for(test, timeout))


@contextlib.contextmanager
def registered(make: str):
    """``tcp://`` and ``tls://`` are of this make, for what is made in between."""
    before = {scheme: backends[scheme] for scheme in ("tcp", "tls")}
    backends.update({scheme: kind() for scheme, kind in BACKENDS[make].items()})
    try:
        yield
    finally:
        backends.update(before)


async def listening(make: str, handle: Callable[[Comm], Any], address: str = "", **kwargs: Any):
    """A started listener."""
    with registered(make):
        return await listen(address or "tcp://127.0.0.1:0", handle, **kwargs)


async def connected(make: str, address: str, **kwargs: Any) -> Comm:
    with registered(make):
        return await connect(address, timeout=TIMEOUT, **kwargs)


@contextlib.asynccontextmanager
async def pair(
    here: str = "native",
    there: str = "native",
    address: str = "tcp://127.0.0.1:0",
    listen_args: dict[str, Any] | None = None,
    connect_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> AsyncIterator[tuple[Comm, Comm]]:
    """The end that connected (``here``) and the one that was connected to (``there``)."""
    accepted: asyncio.Queue[Comm] = asyncio.Queue()
    listener = await listening(there, accepted.put, address, **(listen_args or {}), **kwargs)
    try:
        near = await connected(here, listener.contact_address, **(connect_args or {}), **kwargs)
        far = await asyncio.wait_for(accepted.get(), TIMEOUT)
        try:
            yield near, far
        finally:
            near.abort()
            far.abort()
    finally:
        listener.stop()


def tls(authority: Authority) -> dict[str, Any]:
    """What `pair` needs for TLS."""
    return {
        "address": "tls://127.0.0.1:0",
        "listen_args": {"ssl_context": authority.server()},
        "connect_args": {"ssl_context": authority.client()},
    }
