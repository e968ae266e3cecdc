"""The core's records for the scheduler, as msgpack.

The bytes of a record are those of distributed's dict of the same message, in the same order of
fields.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport isnan

from fastworker.core.records cimport Dropped, Finished, Held, known_description
from fastworker.wire.encode cimport (
    give_back, lend, need, put_int, put_literal, put_nested, write_double,
)


cdef int put_record(Bytes* out, object record) except -1:
    """The message that a record of the core stands for; 0 also for anything else."""
    cdef size_t before = out.size
    cdef int done = 0
    if type(record) is Finished:
        done = put_finished(out, <Finished>record)
    elif type(record) is Dropped:
        done = put_dropped(out, <Dropped>record)
    elif type(record) is Held:
        done = put_held(out, <Held>record)
    if not done:
        out.size = before
    return done


cdef inline int put_field(Bytes* out, const char* name, object value) except -1:
    """What stands before a value, in msgpack, and the value; 0 if that is not plain."""
    put_literal(out, name)
    return put_nested(out, value, 0)


cdef int put_finished(Bytes* out, Finished record) except -1:
    cdef tuple described = known_description(record.type)
    if described is None:
        return 0
    if not put_field(out, b"\x8b\xa3key", record.key):
        return 0
    if not put_field(out, b"\xa6run_id", record.run_id):
        return 0
    put_literal(out, b"\xa6nbytes")
    put_int(out, record.nbytes)
    if not put_field(out, b"\xa4type", described[0]):
        return 0
    if not put_field(out, b"\xa8typename", described[1]):
        return 0
    if record.metadata is None:
        put_literal(out, b"\xa8metadata\x80")
    elif not put_field(out, b"\xa8metadata", record.metadata):
        return 0
    if not put_field(out, b"\xa6thread", record.thread):
        return 0
    if record.startstops is not None:
        if not put_field(out, b"\xaastartstops", record.startstops):
            return 0
    elif isnan(record.compute_start):
        put_literal(out, b"\xaastartstops\x90")
    else:
        put_literal(out, b"\xaastartstops\x91\x83\xa6action\xa7compute\xa5start\xcb")
        need(out, 8)
        write_double(out, record.compute_start)
        put_literal(out, b"\xa4stop\xcb")
        need(out, 8)
        write_double(out, record.compute_stop)
    if not put_field(out, b"\xa2op\xadtask-finished\xabstimulus_id", record.stimulus_id):
        return 0
    put_literal(out, b"\xa6status\xa2OK")
    return 1


cdef int put_held(Bytes* out, Held record) except -1:
    if not put_field(out, b"\x83\xa4keys\x91", record.key):
        return 0
    return put_field(out, b"\xa2op\xa8add-keys\xabstimulus_id", record.stimulus_id)


cdef int put_dropped(Bytes* out, Dropped record) except -1:
    if not put_field(out, b"\x83\xa3key", record.key):
        return 0
    return put_field(out, b"\xa2op\xb3release-worker-data\xabstimulus_id", record.stimulus_id)


def pack_report(record):
    """The bytes of the message that a record stands for; None for one that is not plain."""
    cdef unsigned char memory[512]
    cdef Bytes out
    lend(&out, memory, sizeof(memory))
    try:
        if not put_record(&out, record):
            return None
        return PyBytes_FromStringAndSize(<char*>out.data, out.size)
    finally:
        give_back(&out)
