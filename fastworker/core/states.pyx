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


cdef object finish_name(object finish):
    """A recommendation as distributed writes it: a state's name, or a tuple that starts with one."""
    if type(finish) is tuple:
        return (NAMES[finish[0]], *finish[1:])
    return NAMES[finish]


cdef object finish_code(object finish):
    """The inverse of finish_name."""
    if type(finish) is tuple:
        if not finish:
            raise ValueError("a recommendation must name a task state; got an empty tuple")
        return (state_code(finish[0]), *finish[1:])
    return state_code(finish)
