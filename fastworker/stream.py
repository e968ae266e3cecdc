"""Reading what the scheduler sends, so that one bad task stays one bad task.

A batch of messages carries its tasks as pickles. Where a pickle cannot be loaded on this worker
(a module is missing, a class refuses), the stream of stock dies with it, and the worker with the
stream; the scheduler then sends the same task to the next worker. Here the message arrives with
``UnloadableTask`` in the task's place, and whoever handles it can say so to the scheduler.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ssl import SSLError
from typing import Any

import msgpack
from distributed.comm import utils as comm_utils
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.tcp import TCP, convert_stream_closed_error, read_bytes_rw
from distributed.core import error_message
from distributed.protocol import pickle
from distributed.protocol.compression import decompress
from distributed.protocol.serialize import merge_and_deserialize, msgpack_decode_default
from distributed.protocol.utils import msgpack_opts, unpack_frames
from distributed.utils import offload
from tornado.iostream import StreamClosedError

#: A TCP message starts with the length of its head, in the byte order of the machine.
LENGTH_BYTES = 8


class UnloadableTask:
    """Stands where a task should be that could not be unpickled."""

    __slots__ = ("error", "message")

    def __init__(self, error: Exception) -> None:
        """To be called while ``error`` is being handled: its traceback is taken from there."""
        self.error = error
        #: ``exception``, ``traceback``, ``exception_text``, ``traceback_text`` for the scheduler
        self.message: dict[str, Any] = dict(error_message(error))

    def __repr__(self) -> str:
        return f"<UnloadableTask: {self.error!r}>"


class SchedulerStream:
    """The scheduler's end of a worker's stream, with as much of ``Comm`` as reading takes.

    TCP and TLS are read here. Other transports either cannot carry a bad pickle (``inproc``
    passes objects) or are left to their own ``read``.
    """

    def __init__(self, comm: Comm) -> None:
        self.comm = comm

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

    async def read(self) -> Any:
        """The next batch of messages.

        Raises CommClosedError when the connection has ended, and whatever decoding raises if the
        fault is not a task's own.
        """
        comm = self.comm
        if not isinstance(comm, TCP) or not comm.deserialize:
            return await comm.read()
        frames = await _read_frames(comm)
        nbytes = sum(frame.nbytes for frame in frames)
        threshold = comm_utils.OFFLOAD_THRESHOLD  # may be changed while we run
        if threshold and comm.allow_offload and nbytes > threshold:
            return await offload(decode, frames)
        return decode(frames)


async def _read_frames(comm: TCP) -> list[memoryview]:
    """The frames of one message; those that did not fit into its head in memory of their own."""
    stream = comm.stream
    if stream is None:
        raise CommClosedError(f"in {comm}: the stream is closed")
    try:
        length = int.from_bytes(await stream.read_bytes(LENGTH_BYTES), sys.byteorder)
        head = await read_bytes_rw(stream, length)
        frames, lengths = unpack_frames(head, partial=True)
        for length in lengths:
            frames.append(await read_bytes_rw(stream, length))
    except (StreamClosedError, SSLError) as error:
        comm.abort()
        convert_stream_closed_error(comm, error)
    except BaseException:
        # Nobody knows how much of the message was read: the stream cannot be used again.
        comm.abort()
        raise
    result: list[memoryview] = frames
    return result


def decode(frames: Sequence[memoryview]) -> Any:
    """The message in ``frames``, with UnloadableTask for each task that cannot be unpickled.

    Raises what unpickling raised if it was not the ``run_spec`` of a ``compute-task``.
    """
    unloadable: list[UnloadableTask] = []

    def parts(at: int) -> tuple[dict[str, Any], Sequence[Any]]:
        header = msgpack.loads(
            frames[at], object_hook=msgpack_decode_default, use_list=False, **msgpack_opts
        )
        body: Sequence[Any] = frames[at + 1 : at + 1 + header["num-sub-frames"]]
        if "compression" in header:
            body = decompress(header, body)
        return header, body

    def revive(value: dict[str, Any]) -> Any:
        if at := value.get("__Pickled__", 0):
            header, body = parts(at)
            try:
                return pickle.loads(header["pickled-obj"], buffers=body)
            except Exception as error:
                unloadable.append(UnloadableTask(error))
                return unloadable[-1]
        if at := value.get("__Serialized__", 0):
            header, body = parts(at)
            return merge_and_deserialize(header, body)
        return msgpack_decode_default(value)

    messages = msgpack.loads(frames[0], object_hook=revive, use_list=False, **msgpack_opts)
    if unloadable:
        batch = messages if isinstance(messages, (tuple, list)) else (messages,)
        tasks = {
            id(message.get("run_spec"))
            for message in batch
            if isinstance(message, dict) and message.get("op") == "compute-task"
        }
        for item in unloadable:
            if id(item) not in tasks:
                raise item.error
    return messages
