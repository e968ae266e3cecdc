"""Both ends of a real connection, and what an outbox sends through it."""

from __future__ import annotations

import asyncio
import socket

from distributed.comm import connect, listen
from distributed.security import Security

NEVER = 3600.0  # seconds: an interval that does not end during a test
EVERY_TRANSPORT = ["tcp://127.0.0.1:0", "tls://127.0.0.1:0", "inproc://", "ws://127.0.0.1:0"]
PATIENCE = 30  # seconds for whatever should happen at once


class Ends:
    """A connection within this process: ``near`` is the outbox's, ``far`` the scheduler's.

    With ``buffers``, the sockets of a plain TCP connection hold about that many bytes.
    """

    def __init__(self, address="tcp://127.0.0.1:0", buffers=None):
        self.address = address
        self.buffers = buffers

    async def __aenter__(self):
        accepted = asyncio.get_running_loop().create_future()

        async def serve(comm):
            accepted.set_result(comm)
            await asyncio.Event().wait()

        listening, connecting = {}, {}
        if self.address.startswith(("tls", "wss")):
            security = Security.temporary()
            listening = security.get_listen_args("scheduler")
            connecting = security.get_connection_args("worker")
        self.listener = await listen(self.address, serve, **listening)
        self.near = await connect(self.listener.contact_address, **connecting)
        self.far = await asyncio.wait_for(accepted, PATIENCE)
        if self.buffers is not None:
            near, far = self.near.stream.socket, self.far.stream.socket
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffers)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffers)
        return self

    async def __aexit__(self, *exc):
        self.near.abort()
        self.far.abort()
        self.listener.stop()

    async def receive(self, n):
        """The next messages: whole batches, until there are at least n."""
        received = []
        while len(received) < n:
            received += await asyncio.wait_for(self.far.read(), PATIENCE)
        return received


async def started(ends, outbox, *messages):
    """The outbox, with its first batch sent: that one goes through tornado, the next need not."""
    outbox.start(ends.near)
    outbox.send("first", *messages)
    assert await ends.receive(1) == ["first", *messages]
    while outbox.metrics["waiting_messages"] or not outbox.batch_count:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return outbox


async def in_thread(function, *args):
    return await asyncio.wait_for(asyncio.to_thread(function, *args), PATIENCE)
