"""The one lock of the core.

The GIL is not enough: CPython may switch threads wherever an object is allocated or freed, in the
middle of a transition. The thread that holds the lock can take it again, as an event may be handled
in the middle of another one (a plugin's ``transition`` that calls the worker). Objects whose end
may run user code are kept until the thread has released the lock as often as it has taken it.

A thread waits for the lock without the GIL. So a thread that holds the lock may wait for the GIL.
"""

cdef extern from "pythread.h":
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait) nogil
    void PyThread_release_lock(PyThread_type_lock lock) nogil
    unsigned long PyThread_get_thread_ident()
    int WAIT_LOCK
    int NOWAIT_LOCK


cdef class Lock:
    """A mutex that its owner may take again; a context manager for Python code.

    In a process made by ``fork`` it is as it was in the parent: a forked process has no use for a
    worker's state.
    """

    def __cinit__(self):
        self.trash = []
        self.mutex = PyThread_allocate_lock()
        if self.mutex == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.mutex != NULL:
            PyThread_free_lock(self.mutex)

    cdef bint is_held(self) noexcept:
        return self.owner == PyThread_get_thread_ident()

    cdef int acquire(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.owner == me:
            self.depth += 1
            return 0
        if not PyThread_acquire_lock(self.mutex, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.mutex, WAIT_LOCK)
        self.owner = me
        self.depth = 1
        return 0

    cdef int release(self) except -1:
        """Raises RuntimeError in a thread that does not hold it."""
        cdef list trash = None
        if self.owner != PyThread_get_thread_ident():
            raise RuntimeError("released by a thread that does not hold it")
        if self.depth > 1:
            self.depth -= 1
            return 0
        if self.trash:
            trash, self.trash = self.trash, []
        self.depth = 0
        self.owner = 0
        PyThread_release_lock(self.mutex)
        if trash is not None:
            trash.clear()
        return 0

    cdef int discard(self, object value) except -1:
        """Drop a value after the lock is released. The calling thread holds the lock."""
        if value is not None:
            self.trash.append(value)
        return 0

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *exc_info):
        self.release()

    @property
    def held(self):
        """Whether the calling thread holds it."""
        return self.is_held()

    def __reduce__(self):
        return Lock, ()
