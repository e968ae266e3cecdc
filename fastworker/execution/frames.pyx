"""Where all threads are, asked for in a way that does not crash."""

import sys

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()


def current_frames():
    """What ``sys._current_frames()`` says: {thread id: its innermost frame}.

    CPython 3.11, at least, may collect garbage while it makes the answer. A finalizer that lets
    other threads run then pulls the frames away from under it, and the process crashes. No other
    thread can find the collector off: nothing in here lets one run.
    """
    cdef bint was_enabled
    ask = sys._current_frames
    was_enabled = PyGC_Disable()
    try:
        return ask()
    finally:
        if was_enabled:
            PyGC_Enable()
