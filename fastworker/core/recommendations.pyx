"""Recommendations: which task should go to which state next.

An insertion-ordered map like the dicts of ``distributed.worker_state_machine`` that keeps its
memory when it runs empty, since most of them hold one task and every event makes several.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc

from fastworker.core.states cimport NONE, real_state_code, state_name
from fastworker.core.task cimport TaskState

from distributed.worker_state_machine import RecommendationsConflict

cdef enum:
    MANY = 16


cdef class Recs:
    """{TaskState: state, further arguments of the transition}, followed last in, first out."""

    def __dealloc__(self):
        self.clear()
        free(self.items)

    cdef int put(self, TaskState ts, int finish) except -1:
        return self.put_args(ts, finish, None)

    cdef int put_args(self, TaskState ts, int finish, tuple args) except -1:
        """Add a recommendation; one for the same task is replaced and keeps its place."""
        cdef Py_ssize_t i = self.find(ts)
        cdef Rec* rec
        cdef void* old
        if i < 0:
            i = self.n
            self.put_new(ts)
            if self.index is not None:
                self.index[ts] = i
        rec = &self.items[i]
        old = rec.args
        rec.finish = finish
        rec.args = NULL
        if args is not None:
            Py_INCREF(args)
            rec.args = <void*>args
        if old != NULL:
            Py_DECREF(<object>old)
        return 0

    cdef int put_new(self, TaskState ts) except -1:
        """Add a task that is known not to be in, without saying where it should go."""
        cdef void* grown
        cdef Rec* rec
        if self.n == self.capacity:
            grown = realloc(self.items, <size_t>(2 * self.n + 4) * sizeof(Rec))
            if grown == NULL:
                raise MemoryError
            self.items = <Rec*>grown
            self.capacity = 2 * self.n + 4
        rec = &self.items[self.n]
        Py_INCREF(ts)
        rec.task = <void*>ts
        rec.args = NULL
        rec.finish = NONE
        self.n += 1
        return 0

    cdef Py_ssize_t find(self, TaskState ts) except -2:
        """Where the task is, or -1."""
        cdef Py_ssize_t i
        if self.n <= MANY:
            for i in range(self.n):
                if self.items[i].task == <void*>ts:
                    return i
            return -1
        if self.index is None:
            self.index = {<TaskState>self.items[i].task: i for i in range(self.n)}
        found = self.index.get(ts)
        return -1 if found is None else found

    cdef bint has(self, TaskState ts) except -1:
        return self.find(ts) >= 0

    # The last one; there must be one

    cdef TaskState last(self):
        return <TaskState>self.items[self.n - 1].task

    cdef int last_finish(self) noexcept:
        return self.items[self.n - 1].finish

    cdef tuple take_last(self):
        """Remove it and return its arguments, or None."""
        return self.take_at(self.n - 1)

    cdef tuple take_at(self, Py_ssize_t i):
        cdef Rec rec = self.items[i]
        cdef tuple args = None
        self.n -= 1
        if self.index is not None:
            if i == self.n and self.n > MANY:
                del self.index[<TaskState>rec.task]
            else:
                self.index = None
        for i in range(i, self.n):
            self.items[i] = self.items[i + 1]
        if rec.args != NULL:
            args = <tuple>rec.args
            Py_DECREF(args)
        Py_DECREF(<TaskState>rec.task)
        return args

    cdef int absorb(self, Recs other) except -1:
        """Move all of another's in, in their order; theirs win."""
        cdef Py_ssize_t i
        cdef Rec* rec
        for i in range(other.n):
            rec = &other.items[i]
            self.put_args(
                <TaskState>rec.task, rec.finish, <tuple>rec.args if rec.args != NULL else None
            )
        return other.clear()

    cdef int merge(self, Recs other) except -1:
        """The same, but RecommendationsConflict where both say something else of one task."""
        cdef Py_ssize_t i, mine
        cdef Rec* rec
        cdef TaskState ts
        for i in range(other.n):
            rec = &other.items[i]
            ts = <TaskState>rec.task
            mine = self.find(ts)
            if mine >= 0 and (
                self.items[mine].finish != rec.finish
                or args_of(&self.items[mine]) != args_of(rec)
            ):
                raise RecommendationsConflict(
                    f"{ts.key!r} should go to both {state_name(self.items[mine].finish)!r} "
                    f"and {state_name(rec.finish)!r}"
                )
        return self.absorb(other)

    cdef int clear(self) except -1:
        while self.n:
            self.take_at(self.n - 1)
        return 0

    cdef dict named(self):
        """As distributed writes it: {TaskState: state name, or tuple that begins with one}."""
        cdef Py_ssize_t i
        cdef dict out = {}
        for i in range(self.n):
            name = state_name(self.items[i].finish)
            args = args_of(&self.items[i])
            out[<TaskState>self.items[i].task] = name if args is None else (name, *args)
        return out


cdef object args_of(const Rec* rec):
    return <object>rec.args if rec.args != NULL else None


cdef Recs from_named(object recommendations):
    """The inverse of `Recs.named`. Raises TypeError or ValueError for what is none."""
    cdef Recs out = Recs.__new__(Recs)
    for ts, finish in recommendations.items():
        if not isinstance(ts, TaskState):
            raise TypeError(f"recommendations are for tasks; got {ts!r}")
        if type(finish) is tuple and finish:
            out.put_args(ts, real_state_code(finish[0]), finish[1:])
        else:
            out.put(ts, real_state_code(finish))
    return out
