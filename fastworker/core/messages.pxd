"""What the core takes in natively: the most frequent messages and the most frequent event."""


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


cdef class Success:
    # No lock: the thread that has run the task alone knows it, and the core reads it there.
    cdef readonly object key
    cdef readonly object run_id  # int
    cdef readonly object value
    cdef readonly double start, stop  # seconds since the epoch, by the scheduler's clock
    cdef readonly object nbytes  # a number: the size of the value
    cdef readonly object type  # of the value, or None
    cdef readonly object stimulus_id  # str


cdef Success success(
    object key, object run_id, object value, double start, double stop, object nbytes, object type,
    object stimulus_id,
)
cpdef ComputeTask compute_task_of(object event)
cpdef FreeKeys free_keys_of(object event)
cpdef Success success_of(object event)
