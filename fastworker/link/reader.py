"""Reads what the scheduler sends, so that a task that cannot be unpickled fails alone.

A batch carries its tasks as pickles. When distributed's worker cannot load one (a module is
missing, a class raises), it closes the stream and itself, and the scheduler sends the same task to
the next worker. Here the message arrives with an `UnloadableTask` in the task's place, and the
worker reports that task's error.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from ssl import SSLError
from typing import Any

from distributed.comm import utils as comm_utils
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TCP, convert_stream_closed_error, read_bytes_rw
from distributed.protocol.utils import unpack_frames
from distributed.utils import offload
from tornado.iostream import StreamClosedError

from fastworker.comm.tcp import TCP as NativeTCP
from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.link.decode import decode
from fastworker.link.unloadable import UnloadableTask
from fastworker.wire import Frames, WireError

__all__ = ["NATIVE", "SchedulerStream", "UnloadableTask"]

#: Messages that the decoder makes for the engine, and their ops.
NATIVE: dict[type, str] = {ComputeTask: "compute-task", FreeKeys: "free-keys"}

#: How many of them the engine takes at once. Threads that finish a task wait meanwhile.
AT_ONCE = 32

#: A TCP message starts with the length of its head, in the byte order of the machine.
LENGTH_BYTES = 8


class Batch(list[Any]):
    """The messages of one batch, for a loop over them that takes each as a dict.

    What `take` takes, several at once, never gets to that loop. The batch lets go of a message when
    its turn comes: the loop keeps the batch until it has read the next one, which may be a long
    time.
    """

    def __init__(self, messages: list[Any], take: Callable[[list[Any]], bool]) -> None:
        super().__init__(messages)
        self._take = take

    def __iter__(self) -> Iterator[Any]:
        self.reverse()
        while self:
            together: list[Any] = []
            keys = 0
            while self and keys < AT_ONCE and is_native(self[-1]):
                together.append(self.pop())
                keys += 1 if type(together[-1]) is ComputeTask else len(together[-1].keys)
            if not together:
                yield as_dict(self.pop())
            elif not self._take(together):
                together.reverse()
                while together:
                    yield as_dict(together.pop())
            del together


def is_native(message: Any) -> bool:
    """Whether the engine takes the message as it is."""
    kind = type(message)
    return kind is FreeKeys or (
        kind is ComputeTask and type(message.run_spec) is not UnloadableTask
    )


def as_dict(message: Any) -> Any:
    """The message as distributed's handlers take it."""
    return message.to_dict() if type(message) in NATIVE else message


class SchedulerStream:
    """The scheduler's end of a worker's stream, with as much of ``Comm`` as reading takes.

    TCP and TLS are read here. Other transports either cannot carry a bad pickle (``inproc``
    passes objects) or are left to their own ``read``.

    Parameters
    ----------
    comm
        The connection.
    take
        Takes the `ComputeTask` and `FreeKeys` messages that follow each other when a loop over the
        batch gets to them, so that they keep their place among the other messages. Returns False
        to have dicts for them, as None in its place does. A task that could not be unpickled is a
        dict in any case.
    """

    def __init__(self, comm: Comm, take: Callable[[list[Any]], bool] | None = None) -> None:
        self.comm = comm
        self.take = take

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.comm!r}>"

    @property
    def peer_address(self) -> str:
        address: str = self.comm.peer_address
        return address

    def closed(self) -> bool:
        closed: bool = self.comm.closed()
        return closed

    async def close(self) -> None:
        await self.comm.close()

    async def read(self) -> list[Any]:
        """The next batch of messages.

        Raises CommClosedError when the connection has ended, WireError for bytes that are no
        message, and what unpickling raises for anything but a task. Of a batch that
        cannot be decoded nothing is returned.
        """
        comm = self.comm
        if not isinstance(comm, TCP) or not comm.deserialize:
            read = await comm.read()
            return list(read) if isinstance(read, (tuple, list)) else [read]
        frames = await _read_frames(comm)
        threshold = comm_utils.OFFLOAD_THRESHOLD  # may be changed while we run
        if threshold and comm.allow_offload and frames.total_bytes > threshold:
            messages: list[Any] = await offload(decode, frames)
        else:
            messages = decode(frames)
        if self.take is not None:
            return Batch(messages, self.take)
        return [as_dict(message) for message in messages]


async def _read_frames(comm: TCP) -> Frames:
    """The frames of one message; of distributed's comm, read as its own ``read`` reads them.

    Raises CommClosedError when the connection has ended, WireError for bytes that are no message.
    """
    if isinstance(comm, NativeTCP):
        return Frames(await comm.read_frames())
    stream = comm.stream
    if stream is None:
        raise CommClosedError(f"in {comm}: the stream is closed")
    try:
        length = int.from_bytes(await stream.read_bytes(LENGTH_BYTES), sys.byteorder)
        head = await _read_bytes(comm, length)
        try:
            frames, missing = unpack_frames(head, partial=True)
        except (AssertionError, struct.error) as error:
            raise WireError(f"{comm.peer_address} sent {length} bytes that are no head") from error
        for length in missing:
            frames.append(await _read_bytes(comm, length))
    except (StreamClosedError, SSLError) as error:
        comm.abort()
        convert_stream_closed_error(comm, error)
    except BaseException:
        # Part of the message may have been read: the stream cannot be used again.
        comm.abort()
        raise
    return Frames(frames)


async def _read_bytes(comm: TCP, n: int) -> memoryview:
    """`n` bytes in memory of their own, which takes up room only as it is filled.

    Raises WireError if that much memory cannot be had.
    """
    try:
        read: memoryview = await read_bytes_rw(comm.stream, n)
    except (MemoryError, OverflowError, ValueError) as error:
        raise WireError(f"{comm.peer_address} announced {n} bytes at once") from error
    return read
