"""The two most frequent messages from the scheduler, decoded.

They live from the decoder to the core and are many, so their memory is used again. The garbage
collector does not track them: only the decoder writes to them, and what it writes existed before
them, so no cycle can go through one.
"""

cimport cython


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class ComputeTask:
    """A ``compute-task`` message, field by field as the scheduler sent it.

    Only the decoder makes them. `who_has` and `nbytes` are None where the scheduler sent an empty
    dict.
    """

    def __init__(self):
        raise TypeError("ComputeTask is made by fastworker.link.decode alone")

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
        raise TypeError("FreeKeys is made by fastworker.link.decode alone")

    def to_dict(self):
        """The message as ``distributed.protocol.loads`` gives it: a new dict."""
        return {"op": "free-keys", "keys": self.keys, "stimulus_id": self.stimulus_id}

    def __reduce__(self):
        raise TypeError("FreeKeys cannot be pickled; use to_dict()")

    def __repr__(self):
        return f"<FreeKeys {len(self.keys)} keys>"
