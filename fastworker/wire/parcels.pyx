"""Messages that carry results: what a worker is asked for, and what it is sent.

The frames are those of ``distributed.protocol.dumps``, and either end may be stock's.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp

from fastworker.wire.encode cimport Bytes, append, give_back, lend, map_header, put_value
from fastworker.wire.frames cimport Frames, frames_of
from fastworker.wire.subframes cimport MessageUnpacker
from fastworker.wire.values cimport Recipe, ValuePacker, make_value, recipe_of

import logging
from time import perf_counter

from distributed.comm.utils import OFFLOAD_THRESHOLD
from distributed.metrics import context_meter
from distributed.protocol.serialize import Serialize
from distributed.sizeof import safe_sizeof

from fastworker.wire.encode_objects import MessagePacker
from fastworker.wire.errors import WireError

# Where stock says it too
logger = logging.getLogger("distributed.protocol.core")

cdef enum:
    STACK_BYTES = 4096  # what a message takes beside its results is less than that as a rule
    QUICK = 1 << 20  # bytes that are copied or unpickled in little time


class Heavy(Exception):
    """There is something to serialize that takes its time, for another thread to do."""


cdef class Packer:
    """Packs one message."""
    cdef Bytes head
    cdef object objects  # MessagePacker for what is not known natively; has the frames
    cdef ValuePacker values
    cdef object serializers
    cdef Py_ssize_t allowance  # bytes of objects that may be serialized here; -1 for no limit
    cdef Py_ssize_t count  # results

    def __cinit__(self, dict context, object serializers, str on_error, Py_ssize_t shard,
                  bint light):
        self.objects = MessagePacker(context, serializers, shard, on_error)
        self.allowance = OFFLOAD_THRESHOLD if light and OFFLOAD_THRESHOLD else -1
        if serializers is None:
            self.values = ValuePacker(
                self.objects.frames,
                context.get("pickle-protocol"),
                bool(context.get("compression", True)),
                shard,
            )

    cdef bint message(self, dict message) except -1:
        """Pack a message, or all of it up to what is not plain."""
        map_header(&self.head, len(message))
        for name, part in message.items():
            if not put_value(&self.head, name):
                return False
            if type(part) is dict:
                map_header(&self.head, len(<dict>part))
                for key, value in (<dict>part).items():
                    if not put_value(&self.head, key) or not self.value(value):
                        return False
            elif not self.value(part):
                return False
        return True

    cdef bint value(self, object value) except -1:
        if type(value) is Serialize:
            self.result(value)
            return True
        if type(value) is set:
            value = {"__Set__": True, "as-list": list(value)}
        return put_value(&self.head, value)

    cdef int result(self, object marked) except -1:
        """Add the frames of a result, and to the message the number of the first of them."""
        cdef Py_ssize_t number = 1 + len(self.objects.frames)
        value = marked.data
        if self.values is None or not self.values.put(value):
            if self.allowance >= 0:
                self.allowance -= safe_sizeof(value)
                if self.allowance < 0:
                    raise Heavy
            self.objects.add_serialized(marked)
        self.count += 1
        append(&self.head, b"\x81\xae__Serialized__", 16)
        put_value(&self.head, number)
        return 0


def pack(message, context, shard, serializers=None, on_error="message", light=True):
    """The frames of a message.

    Parameters
    ----------
    message
        Anything.
    context: dict
        What is agreed on with the other end: "pickle-protocol", "compression".
    shard
        Bytes at which to split frames.
    serializers, on_error
        As in ``distributed.protocol.dumps``.
    light
        Whether to leave a message to others if it takes long to serialize, as more than
        ``distributed.comm.offload`` bytes do that are not sent from where they are.

    Returns
    -------
    list of bytes-like, or None
        None for a message that is no dict of plain values, results, and dicts of those; and for
        one that takes long.
    """
    cdef Packer packer
    cdef unsigned char memory[STACK_BYTES]
    cdef double start
    if type(message) is not dict:
        return None
    start = perf_counter()
    packer = Packer(context, serializers, on_error, shard, light)
    lend(&packer.head, memory, STACK_BYTES)
    try:
        if not packer.message(message):
            return None
        head = PyBytes_FromStringAndSize(<char*>packer.head.data, packer.head.size)
    except Heavy:
        return None
    finally:
        give_back(&packer.head)
    if packer.count:
        context_meter.digest_metric("serialize", perf_counter() - start, "seconds")
        context_meter.digest_metric("compress", 0.0, "seconds")
    return [head, *packer.objects.frames]


cdef class Unpacker(MessageUnpacker):
    """Unpacks one message."""
    cdef bint light
    cdef Py_ssize_t count  # results
    # The last header that was met, as the next one is the same as a rule
    cdef Py_ssize_t last
    cdef Recipe recipe

    cdef object serialized(self, Py_ssize_t at):
        if not self.last or not same_frame(self.frames, self.last, at):
            self.recipe = recipe_of(self.frames, at)
            self.last = at
        self.count += 1
        if self.recipe is not None and at + 1 < self.frames.count:
            if not self.light or self.recipe.in_place or self.frames.spans[at + 1].size <= QUICK:
                return make_value(self.recipe, self.frames, at)
        if self.light:
            raise Heavy
        return MessageUnpacker.serialized(self, at)

    cdef object load(self, object pickled, list buffers):
        if self.light:
            raise Heavy
        return MessageUnpacker.load(self, pickled, buffers)


cdef bint same_frame(Frames frames, Py_ssize_t i, Py_ssize_t j) noexcept:
    return (
        frames.spans[i].size == frames.spans[j].size
        and memcmp(frames.spans[i].data, frames.spans[j].data, frames.spans[i].size) == 0
    )


def unpack(frames, light=True):
    """The message of some frames.

    Parameters
    ----------
    frames: sequence of bytes-like
    light
        Whether to leave a message of more than ``distributed.comm.offload`` bytes to others if it
        has results that take long to deserialize.

    Returns
    -------
    tuple of one, or None
        None also for what is no message: stock has its way of saying so.

    Raises
    ------
    Exception
        Whatever deserializing a result raises.
    """
    cdef Frames split = frames_of(frames)
    cdef Unpacker unpacker = Unpacker()
    cdef Py_ssize_t i, nbytes = 0
    cdef double start
    if split.count == 0:
        return None
    if light and OFFLOAD_THRESHOLD:
        for i in range(split.count):
            nbytes += split.spans[i].size
        unpacker.light = nbytes > OFFLOAD_THRESHOLD
    start = perf_counter()
    unpacker.read_frame(split, 0)
    try:
        message = unpacker.whole()
    except (Heavy, WireError):
        return None
    except Exception:
        logger.critical("Failed to deserialize", exc_info=True)
        raise
    if unpacker.count:
        context_meter.digest_metric("decompress", 0.0, "seconds")
        context_meter.digest_metric("deserialize", perf_counter() - start, "seconds")
    return (message,)
