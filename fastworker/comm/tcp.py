"""The comms: what distributed reads from and writes to, on top of a native stream."""

from __future__ import annotations

import logging
import ssl
import weakref
from typing import Any, ClassVar

import dask.config
from dask.utils import parse_bytes
from distributed.comm import tcp as stock
from distributed.comm.core import Comm, CommClosedError, FatalCommClosedError
from distributed.comm.utils import from_frames, to_frames
from distributed.utils import offload

from fastworker.comm.stream import Disconnected, Stream
from fastworker.config import CommSettings
from fastworker.wire.result_messages import NeedsOffload, pack, unpack

logger = logging.getLogger("distributed.comm.tcp")

#: OpenSSL counts in C ints.
MOST_OF_TLS = 2**31 - 1


class TCP(stock.TCP):
    """A connection to another process of a Dask cluster.

    It derives from ``distributed.comm.tcp.TCP`` for ``isinstance`` checks only, and has what every
    ``Comm`` has. ``stream`` is a native `Stream`, not Tornado's.
    """

    max_shard_size: ClassVar[int] = parse_bytes(dask.config.get("distributed.comm.shard"))
    stream: Stream | None

    def __init__(
        self,
        stream: Stream,
        local_addr: str,
        peer_addr: str,
        deserialize: bool = True,
        settings: CommSettings | None = None,
    ) -> None:
        Comm.__init__(self, deserialize=deserialize)
        self._local_addr = local_addr
        self._peer_addr = peer_addr
        self._write_buffer = (settings or CommSettings.load()).write_buffer
        self._extra: dict[str, Any] = {}
        self._closed = False
        self._next: tuple[Any] | None = None
        #: Whether this end has made the connection, so that it reads answers
        self.asks = False
        self.stream = stream
        self._finalizer = weakref.finalize(self, _dangling, stream, repr(self))
        self._finalizer.atexit = False
        stock.set_tcp_timeout(stream)
        self._read_extra()

    def _read_extra(self) -> None:
        """Fill ``extra_info``; there is nothing to say about a plain connection."""

    def closed(self) -> bool:
        stream = self.stream
        return stream is None or stream.closed()

    async def read_frames(self) -> list[memoryview]:
        """The frames of the next message, as they came.

        Raises CommClosedError when the connection has ended. If it is cancelled, the connection
        is aborted, as a message may have been lost.
        """
        stream = self.stream
        if stream is None:
            raise CommClosedError(f"in {self}: the connection is closed")
        try:
            frames: list[memoryview] | None = stream.take()
            if frames is None:
                frames = await stream.wait()
            return frames
        except Disconnected as error:
            self.stream = None
            raise self._closed_error(error) from error.cause
        except BaseException:
            self.abort()
            raise

    def put_back(self, message: Any) -> None:
        """Have the next `read` return this message, which was not for the caller."""
        self._next = (message,)

    async def read(self, deserializers: Any = None) -> Any:
        if self._next is not None:
            (message,), self._next = self._next, None
            return message
        frames = await self.read_frames()
        try:
            if len(frames) == 1 or (self.deserialize and deserializers is None):
                try:
                    unpacked = unpack(frames, light=self.allow_offload)
                except NeedsOffload:
                    unpacked = await offload(unpack, frames, light=False)
                if unpacked is not None:
                    return unpacked[0]
            return await from_frames(
                frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError:
            self.abort()
            raise CommClosedError("aborted stream on truncated data") from None
        except CommClosedError:
            # Of the message's own code: the connection is open, and that is how to tell it apart
            raise
        except Exception:
            if self.asks:
                # An answer that cannot be deserialized. Its sender may expect a confirmation, as a
                # worker that serves results does, and would take the next request for that
                self.abort()
            raise

    async def write(self, msg: Any, serializers: Any = None, on_error: str = "message") -> int:
        if self.closed():
            raise CommClosedError(f"in {self}: the connection is closed")
        context = {
            "sender": self.local_info,
            "recipient": self.remote_info,
            **self.handshake_options,
        }
        how = (msg, context, self.max_shard_size, serializers, on_error)
        try:
            frames = pack(*how, light=self.allow_offload)
        except NeedsOffload:
            frames = await offload(pack, *how, light=False)
        if frames is None:
            frames = await to_frames(
                msg,
                allow_offload=self.allow_offload,
                serializers=serializers,
                on_error=on_error,
                context=context,
                frame_split_size=self.max_shard_size,
            )
        return await self.write_frames(frames)

    async def write_frames(self, frames: list[Any]) -> int:
        """Send a message that has been taken to frames already; returns its bytes.

        Done when the kernel has it, but for ``fastworker.comm.write-buffer`` bytes. Raises
        CommClosedError.
        """
        stream = self.stream
        if stream is None:
            raise CommClosedError(f"in {self}: the connection is closed")
        try:
            nbytes = stream.send(frames)
        except Disconnected as error:
            self.stream = None
            raise self._closed_error(error) from error.cause
        except BaseException:
            # Part of the message may have been sent.
            self.abort()
            raise
        drained = stream.drained(self._write_buffer)
        if drained is not None:
            # The whole message is queued: a caller that is cancelled here loses nothing.
            try:
                await drained
            except Disconnected as error:
                self.stream = None
                raise self._closed_error(error) from error.cause
        return nbytes

    async def close(self) -> None:
        stream, self.stream = self.stream, None
        if stream is None or stream.closed():
            return
        try:
            drained = stream.drained(0)
            if drained is not None:
                await drained
        except Disconnected:
            pass
        finally:
            self._finalizer.detach()
            stream.close()

    def abort(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and not stream.closed():
            self._finalizer.detach()
            stream.abort()

    def _closed_error(self, error: Disconnected) -> CommClosedError:
        cause = error.cause
        if cause is None:
            return CommClosedError(f"in {self}: the connection is closed")
        text = f"in {self}: {type(cause).__name__}: {cause}"
        if isinstance(cause, ssl.SSLError) and "UNKNOWN_CA" in (cause.reason or ""):
            return FatalCommClosedError(text)
        return CommClosedError(text)


class TLS(TCP):
    """An encrypted connection; ``extra_info`` has the peer's certificate and the cipher."""

    max_shard_size: ClassVar[int] = min(MOST_OF_TLS, TCP.max_shard_size)

    def _read_extra(self) -> None:
        assert self.stream is not None
        sock = self.stream.socket
        assert isinstance(sock, ssl.SSLSocket)
        self._extra.update(peercert=sock.getpeercert(), cipher=sock.cipher())
        logger.debug("TLS connection with %s: cipher %s", self._peer_addr, self._extra["cipher"])


def _dangling(stream: Stream, comm: str) -> None:
    if not stream.closed():
        logger.warning("Closing dangling stream in %s", comm)
        stream.abort()
