"""Messages that carry results between workers and to clients.

The frames are those of ``distributed.protocol.dumps``, and either end may be distributed's.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp

from fastworker.wire.encode cimport Bytes, append, give_back, lend, map_header, put_value
from fastworker.wire.frames cimport Frames, frames_of
from fastworker.wire.subframes cimport MessageUnpacker
from fastworker.wire.results cimport Recipe, ValuePacker, make_value, recipe_of

import logging
from time import perf_counter

from distributed.comm import utils as comm_utils
from distributed.metrics import context_meter
from distributed.protocol.serialize import Serialize
from distributed.sizeof import safe_sizeof

from fastworker.wire.encode_objects import MessagePacker
from fastworker.wire.errors import WireError

# The logger that distributed uses for the same error
logger = logging.getLogger("distributed.protocol.core")

cdef enum:
    STACK_BYTES = 4096  # what a message takes beside its results is less than that as a rule
    QUICK = 1 << 20  # bytes that are copied or unpickled in little time


class NeedsOffload(Exception):
    """Serializing or deserializing the message takes long: call again in another thread.

    It would block the event loop.
    """


class Unserializable(Exception):
    """Something cannot be serialized. distributed's own functions try other ways and log more."""


class Shared(Serialize):
    """A result that goes into several messages: it is serialized for the first one that is packed.

    Several threads may pack it. Each thread that comes before the first has finished serializes it
    too, with the same outcome; any of the outcomes is kept.
    """

    def __init__(self, data):
        super().__init__(data)
        #: Whether serializing has begun: what becomes of the result from now on may not be in it.
        #: Set once, by the thread that packs; guarded by the GIL.
        self.begun = False
        #: (context, serializers, header and frames) of the last time; None for what is packed
        #: natively, as that costs nothing
        self.parts = None


cdef int spend(Py_ssize_t* allowance, Py_ssize_t nbytes) except -1:
    """Subtract from the bytes that may be serialized or deserialized here; -1: no limit.

    Buffers that are sent or kept in place do not count.
    """
    if allowance[0] >= 0:
        if nbytes > allowance[0]:
            raise NeedsOffload
        allowance[0] -= nbytes
    return 0


cdef class Packer:
    """Packs one message."""
    cdef Bytes head
    # What was asked for, see `pack`
    cdef dict context
    cdef object serializers
    cdef str on_error
    cdef Py_ssize_t shard
    cdef bint light
    # What results take: made for the first one, as most messages have none
    cdef object objects  # MessagePacker for what is not known natively
    cdef list frames  # of results; the packer above adds to the same list
    cdef ValuePacker values
    cdef tuple agreed  # what the frames of a result depend on, beside the result
    cdef Py_ssize_t allowance
    cdef Py_ssize_t count  # results
    cdef double start  # when the first result was met
    cdef double elsewhere  # seconds spent in distributed's functions, which meter themselves

    cdef int expect_results(self) except -1:
        cdef dict context = self.context
        self.start = perf_counter()
        self.objects = MessagePacker(context, self.serializers, self.shard, self.on_error)
        self.frames = self.objects.frames
        self.agreed = (context.get("pickle-protocol"), context.get("compression"), self.shard,
                       None if self.serializers is None else tuple(self.serializers))
        self.allowance = most_here() if self.light else -1
        if self.serializers is None:
            self.values = ValuePacker(
                self.frames,
                context.get("pickle-protocol"),
                bool(context.get("compression", True)),
                self.shard,
            )
        return 0

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
        if type(value) is Serialize or type(value) is Shared:
            self.result(value)
            return True
        if type(value) is set:
            value = {"__Set__": True, "as-list": list(value)}
        return put_value(&self.head, value)

    cdef int result(self, object marked) except -1:
        """Add the frames of a result, and to the message the number of the first of them."""
        cdef Py_ssize_t number
        if self.objects is None:
            self.expect_results()
        number = 1 + len(self.frames)
        value = marked.data
        if self.values is None or not self.values.put(value):
            self.other(marked)
        else:
            # The frame after its header: made here, unless it is the value itself
            frame = self.frames[number]
            if frame is not value:
                spend(&self.allowance, len(frame))
        self.count += 1
        if not append(&self.head, b"\x81\xae__Serialized__", 16):
            raise MemoryError("no memory for a message")
        put_value(&self.head, number)
        return 0

    cdef int other(self, object marked) except -1:
        """The same for what is not known natively."""
        cdef double start
        cdef bint shared = type(marked) is Shared
        parts = marked.parts if shared else None
        if parts is None or (<tuple>parts)[0] != self.agreed:
            if self.allowance >= 0:
                spend(&self.allowance, size_of(marked.data))
            if shared:
                marked.begun = True
            start = perf_counter()
            try:
                parts = (self.agreed, self.objects.serialized(marked))
            except Exception as error:
                raise Unserializable from error
            self.elsewhere += perf_counter() - start
            if shared:
                marked.parts = parts
        header, frames = (<tuple>parts)[1]
        self.objects.add(dict(header), frames)
        return 0


cdef Py_ssize_t MOST_NBYTES = <Py_ssize_t>1 << 50  # a pebibyte: more than any limit


cdef Py_ssize_t size_of(object value) except -1:
    """Bytes of a value as far as can be told; of what cannot, as many as there may be."""
    try:
        return max(0, min(int(safe_sizeof(value)), MOST_NBYTES))
    except Exception:
        return MOST_NBYTES


cdef Py_ssize_t most_here() except -2:
    """Bytes of a message that the event loop's thread may handle itself; -1: no limit."""
    # Read each time, as distributed does: the setting may change while the worker runs
    threshold = comm_utils.OFFLOAD_THRESHOLD
    return threshold if threshold else -1


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
        Whether to refuse a message that takes long to serialize, as more than
        ``distributed.comm.offload`` bytes do that are not sent from where they are.

    Returns
    -------
    list of bytes-like, or None
        None for a message that is neither plain (see `fastworker.wire.encode`) nor a dict of plain
        values, results, sets, and dicts of those, and for one that cannot be serialized: call
        distributed's functions, which raise the error.

    Raises
    ------
    NeedsOffload
        Packing takes long: call it in another thread.
    """
    cdef Packer packer
    cdef unsigned char memory[STACK_BYTES]
    packer = Packer.__new__(Packer)
    packer.context = context
    packer.serializers = serializers
    packer.on_error = on_error
    packer.shard = shard
    packer.light = light
    lend(&packer.head, memory, STACK_BYTES)
    try:
        if type(message) is dict:
            if not packer.message(message):
                return None
        elif not put_value(&packer.head, message):
            return None
        head = PyBytes_FromStringAndSize(<char*>packer.head.data, packer.head.size)
    except Unserializable:
        return None
    finally:
        give_back(&packer.head)
    if packer.count == 0:
        return [head]
    context_meter.digest_metric(
        "serialize", perf_counter() - packer.start - packer.elsewhere, "seconds"
    )
    context_meter.digest_metric("compress", 0.0, "seconds")
    return [head, *packer.frames]


cdef class Unpacker(MessageUnpacker):
    """Unpacks one message."""
    cdef bint light
    cdef Py_ssize_t allowance
    cdef Py_ssize_t count  # results
    # The last header that was met, as the next one is the same as a rule
    cdef Py_ssize_t last
    cdef Recipe recipe
    cdef double start  # when the first result was met
    cdef double elsewhere  # seconds spent in distributed's functions, which meter themselves

    cdef object serialized(self, Py_ssize_t at):
        cdef double start
        if self.count == 0:
            self.start = perf_counter()
        if not self.last or not same_frame(self.frames, self.last, at):
            self.recipe = recipe_of(self.frames, at)
            self.last = at
        self.count += 1
        if self.recipe is not None and at + 1 < self.frames.count:
            if not self.recipe.in_place:
                spend(&self.allowance, self.frames.spans[at + 1].size)
            return make_value(self.recipe, self.frames, at)
        if self.light:
            raise NeedsOffload
        start = perf_counter()
        value = MessageUnpacker.serialized(self, at)
        self.elsewhere += perf_counter() - start
        return value

    cdef object load(self, object pickled, list buffers):
        if self.light:
            raise NeedsOffload
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
        Whether to refuse a message of more than ``distributed.comm.offload`` bytes if it has
        results that take long to deserialize.

    Returns
    -------
    tuple of one, or None
        None for what is not a message: call distributed's functions, which raise the error.

    Raises
    ------
    NeedsOffload
        Unpacking takes long: call it in another thread.
    Exception
        What deserializing a result raises.
    """
    cdef Frames split = frames_of(frames)
    cdef Unpacker unpacker = Unpacker.__new__(Unpacker)
    cdef Py_ssize_t i, most = most_here() if light else -1, nbytes = 0
    if split.count == 0:
        return None
    unpacker.allowance = -1
    if most >= 0:
        for i in range(split.count):
            nbytes += split.spans[i].size
        if nbytes > most:
            unpacker.light = True
            unpacker.allowance = min(most, QUICK)
    unpacker.read_frame(split, 0)
    try:
        message = unpacker.whole()
    except WireError:
        return None
    except NeedsOffload:
        raise
    except Exception:
        logger.critical("Failed to deserialize", exc_info=True)
        raise
    if unpacker.count:
        context_meter.digest_metric("decompress", 0.0, "seconds")
        context_meter.digest_metric(
            "deserialize", perf_counter() - unpacker.start - unpacker.elsewhere, "seconds"
        )
    return (message,)
