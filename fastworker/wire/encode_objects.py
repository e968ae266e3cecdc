"""Packs messages that hold more than plain values: pickles, buffers, objects of the user's.

distributed packs a batch as one value, with a hook for what msgpack does not know. A message that
fails ends the batch, and the connection with it. Here each message is packed by itself, so that the
caller can leave out one that fails.

Everything here may run user code (``__reduce__`` and the like).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
from distributed.protocol import pickle
from distributed.protocol.compression import maybe_compress
from distributed.protocol.serialize import (
    Pickled,
    Serialize,
    Serialized,
    ToPickle,
    msgpack_encode_default,
    serialize_and_split,
)
from distributed.utils import ensure_memoryview

from fastworker.config.logs import get_logger

Frame = bytes | bytearray | memoryview

logger = get_logger("wire")


class MessagePacker:
    """Packs the messages of one batch, one by one, and collects the frames they point at.

    Parameters
    ----------
    context
        Facts about both ends, for serializers; its "compression" is used for frames.
    serializers
        Names of serialization families for `Serialize` objects; None for the usual ones.
    shard
        Bytes at which to split the frames of `Serialize` objects; None for Dask's.
    on_error
        What becomes of a `Serialize` object that cannot be serialized: "raise", or "message" for
        one that raises at the other end.
    """

    def __init__(
        self,
        context: Mapping[str, Any] | None = None,
        serializers: list[str] | None = None,
        shard: int | None = None,
        on_error: str = "raise",
    ) -> None:
        self.context = dict(context) if context is not None else None
        self.serializers = serializers
        self.shard = shard
        self.on_error = on_error
        self.compression = {}
        if self.context and "compression" in self.context:
            self.compression = {"compression": self.context["compression"]}
        #: The frames that follow the batch's first
        self.frames: list[Frame] = []

    def pack(self, message: Any) -> bytes:
        """The message as msgpack. Raises what packing raises; then no frame was added."""
        before = len(self.frames)
        try:
            packed: bytes = msgpack.packb(message, default=self._encode, use_bin_type=True)
        except BaseException:
            del self.frames[before:]
            raise
        return packed

    def _encode(self, obj: Any) -> Any:
        """msgpack's hook for objects that it does not know."""
        if isinstance(obj, (Serialize, Serialized)):
            return {"__Serialized__": self.add(*self.serialized(obj))}
        if isinstance(obj, (ToPickle, Pickled)):
            return {"__Pickled__": self.add(*self._pickled(obj))}
        encoded = msgpack_encode_default(obj)
        if encoded is not obj:
            return encoded
        logger.info("Pickling %s, which msgpack cannot pack, for the scheduler", type(obj))
        return {"__Pickled__": self.add(*self._pickled(ToPickle(obj)))}

    def serialized(self, obj: Serialize | Serialized) -> tuple[dict[str, Any], list[Frame]]:
        """A header and frames, compressed where it pays. Raises what serializing raises."""
        if isinstance(obj, Serialized):
            return dict(obj.header), list(obj.frames)
        header, frames = serialize_and_split(
            obj,
            serializers=self.serializers,
            on_error=self.on_error,
            context=self.context,
            size=self.shard,
        )
        return self._compress(header, frames)

    def _pickled(self, obj: ToPickle[Any] | Pickled) -> tuple[dict[str, Any], list[Frame]]:
        if isinstance(obj, Pickled):
            return dict(obj.header), list(obj.frames)
        buffers: list[Frame] = []
        data = pickle.dumps(
            obj.data, buffer_callback=lambda buffer: buffers.append(ensure_memoryview(buffer))
        )
        return self._compress({"pickled-obj": data}, buffers)

    def _compress(
        self, header: dict[str, Any], frames: list[Frame]
    ) -> tuple[dict[str, Any], list[Frame]]:
        names = list(header.get("compression") or [None] * len(frames))
        out = list(frames)
        for i, name in enumerate(names):
            if name is None:
                names[i], out[i] = maybe_compress(frames[i], **self.compression)
        header["compression"] = tuple(names)
        return header, out

    def add(self, header: dict[str, Any], frames: list[Frame]) -> int:
        """Append a header and its frames; returns the header's number in the batch."""
        number = 1 + len(self.frames)
        self.frames.append(pack_header(header, len(frames)))
        self.frames.extend(frames)
        return number


def pack_header(header: dict[str, Any], count: int) -> bytes:
    """The frame that stands before the ``count`` frames of an object."""
    header["num-sub-frames"] = count
    packed: bytes = msgpack.packb(header, default=msgpack_encode_default, use_bin_type=True)
    return packed
