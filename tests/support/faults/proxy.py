"""A TCP proxy that resets connections, cuts them in the middle of a message, and slows them."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends a reset


class Connection:
    """Two sockets and what goes on between them."""

    def __init__(self, proxy: Proxy, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.ends = [near, far]
        self.left: int | None = None
        """How many bytes may still pass, in both directions together."""

    async def pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK):
            if self.proxy.delay:
                await asyncio.sleep(self.proxy.delay)
            if self.proxy.rate:
                await asyncio.sleep(len(data) / self.proxy.rate)
            if self.left is not None:
                data, self.left = data[: self.left], self.left - len(data)
            target.write(data)
            await target.drain()
            if self.left is not None and self.left <= 0:
                self.cut()
                return
        target.write_eof()

    def cut(self) -> None:
        """Close both ends, with a reset or as if all had been said."""
        for end in self.ends:
            if self.proxy.with_reset:
                with suppress(OSError):
                    end.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                    )
                end.transport.abort()
            else:
                end.close()


class Proxy:
    """Connections to one port, carried to another. All of it is the event loop's thread's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target_port: int) -> None:
        self.loop = loop
        self.target_port = target_port
        self.port = 0
        self.connections: set[Connection] = set()
        self.delay = 0.0  # seconds that each chunk of data waits
        self.rate = 0.0  # bytes a second; 0 for as fast as can be
        self.refusing = False
        self.with_reset = True
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def carry(self, source: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        if self.refusing:
            back.transport.abort()
            return
        try:
            answers, onward = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            back.transport.abort()
            return
        connection = Connection(self, back, onward)
        self.connections.add(connection)
        try:
            await asyncio.gather(connection.pump(source, onward), connection.pump(answers, back))
        except OSError:
            connection.cut()
        finally:
            self.connections.discard(connection)
            for end in connection.ends:
                end.close()

    def reset(self, share: float, chance: random.Random) -> None:
        """Cut this share of the connections now."""
        for connection in list(self.connections):
            if chance.random() < share:
                connection.cut()

    def cut_after(self, most: int, share: float, chance: random.Random) -> None:
        """Cut this share of the connections once some more bytes have passed, up to ``most``."""
        for connection in list(self.connections):
            if chance.random() < share:
                connection.left = chance.randrange(1, most)

    def calm(self) -> None:
        self.delay = self.rate = 0.0
        self.refusing = False
        for connection in self.connections:
            connection.left = None

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for connection in list(self.connections):
            connection.cut()


class Proxies:
    """Proxies in a thread of their own; a context manager."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self.proxies: list[Proxy] = []

    def __enter__(self) -> Proxies:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _close(self) -> None:
        for proxy in self.proxies:
            await proxy.close()
        ending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def call(self, function: Any, *args: Any) -> None:
        """Call something of a proxy's in the thread that owns it."""

        async def call() -> None:
            function(*args)

        self.run(call())

    def to(self, target_port: int) -> Proxy:
        proxy = Proxy(self.loop, target_port)
        self.run(proxy.start())
        self.proxies.append(proxy)
        return proxy
