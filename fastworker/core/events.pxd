"""What each stimulus does to the state: events of distributed's, and native messages."""

from fastworker.core.state cimport State

cdef int process(State state, object stimulus, list records) except -1
cdef int process_begun(State state, object stimulus, list records) except -1
