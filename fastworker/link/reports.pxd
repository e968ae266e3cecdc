"""Messages to the scheduler that the core has decided on, as msgpack."""

from fastworker.wire.encode cimport Bytes

# 1: written; 0: no record, or one that is not plain, and nothing is written. Raises MemoryError.
cdef int put_record(Bytes* out, object record) except -1
