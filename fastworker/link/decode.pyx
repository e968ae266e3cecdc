"""Decodes all messages from the scheduler.

The decoder writes the fields of ``compute-task`` and ``free-keys`` straight from the bytes into an
object. It recognizes them by their first field, the operation, which every scheduler sends first.
Any other message, and one of these two with a field that is missing, unknown or of the wrong type,
becomes what ``distributed.protocol.loads`` returns for it.
"""

from libc.stdint cimport uint8_t, uint32_t

from fastworker.wire.frames cimport Frames, frames_of
from fastworker.core.messages cimport ComputeTask, FreeKeys
from fastworker.wire.subframes cimport MessageUnpacker, unpickle

import logging

from fastworker.wire.errors import WireError
from fastworker.link.unloadable import UnloadableTask

# The logger that distributed uses for the same error
logger = logging.getLogger("distributed.protocol.core")

cdef enum:
    # Of a compute-task, in the order in which schedulers send them
    KEY
    RUN_ID
    PRIORITY
    STIMULUS_ID
    WHO_HAS
    NBYTES
    RUN_SPEC
    RESOURCE_RESTRICTIONS
    ACTOR
    ANNOTATIONS
    SPAN_ID
    FIELDS

cdef struct Name:
    const char* text  # with the byte in front that says its length
    Py_ssize_t size

cdef Name[FIELDS] NAMES = [
    Name(b"\xa3key", 4),
    Name(b"\xa6run_id", 7),
    Name(b"\xa8priority", 9),
    Name(b"\xabstimulus_id", 12),
    Name(b"\xa7who_has", 8),
    Name(b"\xa6nbytes", 7),
    Name(b"\xa8run_spec", 9),
    Name(b"\xb5resource_restrictions", 22),
    Name(b"\xa5actor", 6),
    Name(b"\xabannotations", 12),
    Name(b"\xa7span_id", 8),
]
cdef tuple FIELD_NAMES = (
    "key", "run_id", "priority", "stimulus_id", "who_has", "nbytes", "run_spec",
    "resource_restrictions", "actor", "annotations", "span_id",
)


cdef inline bint is_key(object key) noexcept:
    """Whether `key` can be the key of a task."""
    if type(key) is str or type(key) is int or type(key) is bytes or type(key) is float:
        return True
    if type(key) is not tuple:
        return False
    for part in <tuple>key:
        if not is_key(part):
            return False
    return True


cdef inline bint all_of(object map, object kind) noexcept:
    """Whether `map` is a dict with values of this type."""
    if type(map) is not dict:
        return False
    for value in (<dict>map).values():
        if type(value) is not kind:
            return False
    return True


cdef dict so_far(ComputeTask task, const uint8_t* order, int count):
    """A dict of the first `count` fields, for a message that turns out not to be native."""
    cdef dict whole = task.to_dict()
    cdef dict out = {"op": "compute-task"}
    cdef int i
    for i in range(count):
        name = FIELD_NAMES[order[i]]
        out[name] = whole[name]
    return out


cdef class SchedulerDecoder(MessageUnpacker):
    """Reads the messages of one batch, which are in its first frame."""

    cdef list messages(self):
        """All messages, in order, or an error."""
        cdef list out = []
        cdef Py_ssize_t n, i
        n = self.array_header()
        if n < 0:
            self.message = 0
            found = self.one_message()
            if isinstance(found, (tuple, list)):
                out.extend(found)
            else:
                out.append(found)
        else:
            for i in range(n):
                self.owed -= 1
                self.message = i
                out.append(self.one_message())
            self.leave()
        if self.pos != self.end:
            raise self.error(f"{self.end - self.pos} bytes follow the last message")
        return out

    cdef object one_message(self):
        """Read one message."""
        cdef Py_ssize_t n
        try:
            n = self.map_header()
            if n < 0:
                found = self.value()
            elif n and self.consume_if(b"\xa2op", 3):
                if self.consume_if(b"\xaccompute-task", 13):
                    self.owed -= 2
                    found = self.compute_task(n - 1)
                elif self.consume_if(b"\xa9free-keys", 10):
                    self.owed -= 2
                    found = self.free_keys(n - 1)
                else:
                    self.owed -= 2
                    found = self.map_rest({"op": self.value()}, n - 1)
            else:
                found = self.map_rest({}, n)
        except Exception:
            # An UnloadableTask may be the cause of this error; then report why it is one
            if self.unloadable:
                raise self.unloadable[0].error
            raise
        if self.unloadable:
            self.check_unloadable(found)
        return found

    cdef int check_unloadable(self, object message) except -1:
        """Raise the error of what could not be unpickled, unless it is the task of `message`."""
        cdef list unloadable = self.unloadable
        self.unloadable = None
        if type(message) is ComputeTask:
            task = (<ComputeTask>message).run_spec
        elif type(message) is dict and message.get("op") == "compute-task":
            task = message.get("run_spec")
        else:
            task = None
        for found in unloadable:
            if found is not task:
                raise found.error
        return 0

    cdef object compute_task(self, Py_ssize_t n):
        """Read the `n` fields that follow the operation of a compute-task."""
        cdef ComputeTask task = ComputeTask.__new__(ComputeTask)
        cdef uint8_t[FIELDS] order
        cdef uint32_t seen = 0
        cdef int expected = 0
        cdef int field, count
        cdef bint good
        for count in range(n):
            # Fields come in the usual order, or else in any
            for field in range(expected, FIELDS):
                if self.consume_if(NAMES[field].text, NAMES[field].size):
                    break
            else:
                for field in range(expected):
                    if self.consume_if(NAMES[field].text, NAMES[field].size):
                        break
                else:
                    return self.map_rest(so_far(task, order, count), n - count)
            self.owed -= 2
            expected = field + 1
            good = True
            if seen & (1 << field):
                value = self.value()
                good = False
            elif field == KEY:
                task.key = value = self.value()
                good = is_key(value)
            elif field == RUN_ID:
                task.run_id = value = self.value()
                good = type(value) is int
            elif field == PRIORITY:
                task.priority = value = self.value()
                good = type(value) is tuple
            elif field == STIMULUS_ID:
                task.stimulus_id = value = self.value()
                good = type(value) is str
            elif field == WHO_HAS:
                if not self.consume_if(b"\x80", 1):
                    self.repeated = True
                    task.who_has = value = self.value()
                    self.repeated = False
                    good = all_of(value, tuple)
            elif field == NBYTES:
                if not self.consume_if(b"\x80", 1):
                    task.nbytes = value = self.value()
                    good = all_of(value, int)
            elif field == RUN_SPEC:
                if self.consume_if(b"\x81\xab__Pickled__", 13):
                    task.run_spec = self.revive_pickled(self.value())
                else:
                    task.run_spec = self.value()
            elif field == RESOURCE_RESTRICTIONS:
                task.resource_restrictions = value = self.value()
                good = value is None or type(value) is dict
            elif field == ACTOR:
                value = self.value()
                task.actor = value is True
                good = type(value) is bool
            elif field == ANNOTATIONS:
                task.annotations = value = self.value()
                good = value is None or type(value) is dict
            else:
                self.repeated = True
                task.span_id = value = self.value()
                self.repeated = False
                good = value is None or type(value) is str
            if not good:
                message = so_far(task, order, count)
                message[FIELD_NAMES[field]] = value
                return self.map_rest(message, n - count - 1)
            # No field is here twice, so that `order` has room for it
            order[count] = field
            seen |= 1 << field
        if seen != (1 << FIELDS) - 1:
            return self.map_rest(so_far(task, order, n), 0)
        self.leave()
        return task

    cdef object free_keys(self, Py_ssize_t n):
        """Read the `n` fields that follow the operation of a free-keys."""
        cdef FreeKeys free = FreeKeys.__new__(FreeKeys)
        cdef dict message
        if n == 2 and self.consume_if(b"\xa4keys", 5):
            self.owed -= 2
            keys = self.value()
            if type(keys) is tuple and self.consume_if(b"\xabstimulus_id", 12):
                self.owed -= 2
                stimulus_id = self.value()
                if type(stimulus_id) is str:
                    free.keys = keys
                    free.stimulus_id = stimulus_id
                    self.leave()
                    return free
                message = {"op": "free-keys", "keys": keys, "stimulus_id": stimulus_id}
                return self.map_rest(message, 0)
            return self.map_rest({"op": "free-keys", "keys": keys}, 1)
        return self.map_rest({"op": "free-keys"}, n)

    cdef object load(self, object pickled, list buffers):
        """The object of a pickle; an UnloadableTask if it cannot be loaded."""
        try:
            return unpickle(pickled, buffers)
        except Exception as error:
            found = UnloadableTask(error)
        if self.unloadable is None:
            self.unloadable = []
        self.unloadable.append(found)
        return found


cpdef list decode(object frames):
    """Decode one batch of messages.

    Parameters
    ----------
    frames: Frames, or sequence of bytes-like
        The first has the messages, the rest what the messages refer to.

    Returns
    -------
    list
        One entry for each message, in order: `ComputeTask`, `FreeKeys`, or what
        ``distributed.protocol.loads`` gives for it (a dict, as a rule). A task that cannot be
        unpickled is an `UnloadableTask`.

    Raises
    ------
    WireError
        For bytes that are no message.
    Exception
        What unpickling or deserializing anything but a task raises.
    """
    cdef SchedulerDecoder batch
    cdef Frames split
    try:
        split = frames_of(frames)
        if split.count == 0:
            raise WireError("a message has at least one frame")
        batch = SchedulerDecoder()
        batch.read_frame(split, 0)
        return batch.messages()
    except Exception:
        logger.critical("Failed to deserialize", exc_info=True)
        raise
