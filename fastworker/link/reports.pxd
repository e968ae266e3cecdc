"""The core's records for the scheduler, as msgpack."""

from fastworker.wire.encode cimport Bytes

# 1: written; 0: no record, or one that is not plain, and nothing is written. Raises MemoryError.
cdef int put_record(Bytes* out, object record) except -1
