"""What threads are doing, copied while none of them can go on."""

import sys

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()

cdef extern from *:
    """
    static PyObject *code_of(PyObject *frame) {
        return (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
    }
    """
    object code_of(object frame)  # unlike `f_code`, no event for audit hooks to run at


cdef class FrameCopy:
    """What a frame said of itself, under the names that it has for it; the frame is not kept."""

    cdef readonly object f_code, f_lineno, f_lasti, f_globals


def copy_stacks(dict threads not None):
    """The stacks of some of the threads.

    Nothing of a thread's frames outlives the call, and no thread runs while they are looked at:
    frames may be gone once their thread has run. On CPython 3.11, even one step from a frame to its
    caller makes a new object; to make one may collect garbage, a finalizer may let the thread run,
    and the object then stands for what is not there any more. So the collector is off meanwhile.
    No other thread can find it off, for none runs.

    Parameters
    ----------
    threads: dict
        {thread id: anything}. Other threads may change it at any time; those that are in it by the
        time of the look count.

    Returns
    -------
    [(thread id, its value in `threads`, [FrameCopy, the innermost first])], without threads that
    are not there.
    """
    cdef bint was_enabled
    ask = sys._current_frames
    was_enabled = PyGC_Disable()
    try:
        return look(ask, threads)
    finally:
        if was_enabled:
            PyGC_Enable()


cdef list look(object ask, dict threads):
    """To be called with the collector off; all frames have been let go of when it returns.

    An audit hook, if there is one, may let threads run at the beginning of `ask`, where nothing
    has been looked at. From then on there is no Python code to run, nothing that is let go has no
    other owner, and what is allocated collects nothing.
    """
    cdef list stacks = [], stack
    cdef FrameCopy copy
    cdef dict frames = ask()
    for ident, value in threads.items():
        frame = frames.get(ident)
        if frame is None:
            continue
        stack = []
        while frame is not None:
            copy = FrameCopy.__new__(FrameCopy)
            copy.f_code = code_of(frame)
            copy.f_lineno = frame.f_lineno
            copy.f_lasti = frame.f_lasti
            copy.f_globals = frame.f_globals
            stack.append(copy)
            frame = frame.f_back
        stacks.append((ident, value, stack))
    return stacks
