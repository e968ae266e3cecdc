"""Task states as small integers inside, Dask's strings outside."""

import sys

cdef tuple NAMES = (
    None,
    "cancelled",
    "constrained",
    "error",
    "executing",
    "fetch",
    "flight",
    "forgotten",
    "long-running",
    "memory",
    "missing",
    "ready",
    "released",
    "rescheduled",
    "resumed",
    "waiting",
)
cdef dict CODES = {name and sys.intern(name): code for code, name in enumerate(NAMES)}

STATES = NAMES[1:]


cdef object state_name(int state):
    return NAMES[state]


cdef int state_code(object name) except -1:
    """Raises ValueError for anything that is not one of Dask's task states or None."""
    try:
        return CODES[name]
    except (KeyError, TypeError):
        raise ValueError(
            f"unknown task state {name!r}; expected one of {', '.join(STATES)}"
        ) from None


cdef int real_state_code(object name) except -1:
    """The same for where None will not do: a task is always in some state."""
    cdef int code = state_code(name)
    if code == NONE:
        raise ValueError(f"None is no task state; expected one of {', '.join(STATES)}")
    return code
