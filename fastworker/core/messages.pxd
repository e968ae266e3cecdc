"""What the core takes in natively: the two most frequent messages from the scheduler."""


cdef class ComputeTask:
    # No lock: it is written before any other thread can see it; then it never changes.
    cdef readonly object key  # str, bytes, int, float or a tuple of these
    cdef readonly object run_id  # int
    cdef readonly object priority  # tuple
    cdef readonly object run_spec  # the unpickled task, an UnloadableTask, or None
    cdef readonly object who_has  # {key: addresses}; None for no dependencies
    cdef readonly object nbytes  # {key: bytes}; None for no dependencies
    cdef readonly object resource_restrictions  # {resource: amount}, or None
    cdef readonly bint actor
    cdef readonly object annotations  # dict, or None
    cdef readonly object span_id  # str, or None
    cdef readonly object stimulus_id  # str


cdef class FreeKeys:
    cdef readonly object keys  # iterable of keys; a tuple as decoded
    cdef readonly object stimulus_id  # str


cpdef ComputeTask compute_task_of(object event)
cpdef FreeKeys free_keys_of(object event)
