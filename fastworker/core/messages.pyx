"""What the core takes in natively: the most frequent messages and the most frequent event.

The decoder makes messages, a thread that has run a task makes its success, and the functions at the
end make them of distributed's events. They live until the core has handled them and are many, so
their memory is used again. The garbage collector does not track them: what is written to one
existed before it, so no cycle can go through it.
"""

cimport cython


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class ComputeTask:
    """A ``compute-task`` message, field by field as the scheduler sent it.

    `who_has` and `nbytes` are None where the scheduler sent an empty dict.
    """

    def __init__(self):
        raise TypeError("ComputeTask is made by fastworker.link.decode and compute_task_of alone")

    def to_dict(self):
        """The message as ``distributed.protocol.loads`` gives it: a new dict."""
        return {
            "op": "compute-task",
            "key": self.key,
            "run_id": self.run_id,
            "priority": self.priority,
            "stimulus_id": self.stimulus_id,
            "who_has": {} if self.who_has is None else self.who_has,
            "nbytes": {} if self.nbytes is None else self.nbytes,
            "run_spec": self.run_spec,
            "resource_restrictions": self.resource_restrictions,
            "actor": self.actor,
            "annotations": self.annotations,
            "span_id": self.span_id,
        }

    def __reduce__(self):
        raise TypeError("ComputeTask cannot be pickled; use to_dict()")

    def __repr__(self):
        return f"<ComputeTask {self.key!r} run_id={self.run_id!r}>"


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class FreeKeys:
    """A ``free-keys`` message: keys whose data and tasks the worker shall forget."""

    def __init__(self):
        raise TypeError("FreeKeys is made by fastworker.link.decode and free_keys_of alone")

    def to_dict(self):
        """The message as ``distributed.protocol.loads`` gives it: a new dict."""
        return {"op": "free-keys", "keys": self.keys, "stimulus_id": self.stimulus_id}

    def __reduce__(self):
        raise TypeError("FreeKeys cannot be pickled; use to_dict()")

    def __repr__(self):
        return f"<FreeKeys {len(self.keys)} keys>"


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Success:
    """A task has returned a result: distributed's ``ExecuteSuccessEvent``."""

    def __init__(self):
        raise TypeError("Success is made by fastworker.execution.runner and success_of alone")

    def __reduce__(self):
        raise TypeError("Success cannot be pickled")

    def __repr__(self):
        return f"<Success {self.key!r} run_id={self.run_id!r}>"


cdef Success success(
    object key, object run_id, object value, double start, double stop, object nbytes, object type,
    object stimulus_id,
):
    cdef Success out = Success.__new__(Success)
    out.key = key
    out.run_id = run_id
    out.value = value
    out.start = start
    out.stop = stop
    out.nbytes = nbytes
    out.type = type
    out.stimulus_id = stimulus_id
    return out


cpdef ComputeTask compute_task_of(object event):
    """The message that distributed makes this ``ComputeTaskEvent`` of."""
    cdef ComputeTask task = ComputeTask.__new__(ComputeTask)
    task.key = event.key
    task.run_id = event.run_id
    task.priority = event.priority
    task.run_spec = event.run_spec
    task.who_has = event.who_has or None
    task.nbytes = event.nbytes or None
    task.resource_restrictions = event.resource_restrictions
    task.actor = event.actor
    task.annotations = event.annotations
    task.span_id = event.span_id
    task.stimulus_id = event.stimulus_id
    return task


cpdef FreeKeys free_keys_of(object event):
    """The message that distributed makes this ``FreeKeysEvent`` of."""
    cdef FreeKeys free = FreeKeys.__new__(FreeKeys)
    free.keys = event.keys
    free.stimulus_id = event.stimulus_id
    return free


cpdef Success success_of(object event):
    """The same for an ``ExecuteSuccessEvent``."""
    return success(
        event.key, event.run_id, event.value, event.start, event.stop, event.nbytes, event.type,
        event.stimulus_id,
    )
