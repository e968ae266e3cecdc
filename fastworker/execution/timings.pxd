"""Where the time of plain tasks went: counted natively, made into named figures when read."""

cdef enum Outcome:
    SUCCESS  # in memory
    FAILED
    CANCELLED  # run for nothing: not wanted any more, or to be run elsewhere
    N_OUTCOMES

cdef enum Part:
    # The fine-grained seconds of a task that succeeded, in the order in which they are reported
    THREAD_CPU
    THREAD_NONCPU
    EXECUTOR
    OTHER
    N_PARTS

cdef enum Figure:
    # The figures of a row. Those of a part come first, by its number
    FAILED_SECONDS = N_PARTS
    CANCELLED_SECONDS
    READ_COUNT
    READ_BYTES
    N_FIGURES

cdef enum Group:
    # Figures of a row that come together
    READS
    PARTS
    FAILURES
    CANCELLATIONS
    N_GROUPS

cdef struct Sample:
    # One run of one task; all but the reads in seconds. What never is negative.
    double thread_cpu  # on the processor, in the call
    double thread_noncpu  # in the call, but not on the processor
    double executor  # around the call, in the thread
    double other  # the rest: from the decision to run the task until its end was dealt with
    double elapsed  # all of it; counts in place of the four above unless the task succeeded
    double duration  # of the call, by the wall clock; negative if it did not return a value
    long long read_count  # how many inputs were read from memory; 0 for data that cannot spill
    long long read_bytes  # how many bytes these weigh
    long long read_largest  # how many bytes the heaviest of them weighs

cdef class Row:
    # What all tasks of one span and prefix added up to since the last drain.
    cdef readonly object span_id  # str or None
    cdef readonly str prefix
    cdef Group groups[N_GROUPS]  # in the order in which they came up
    cdef int n_groups
    cdef long long tasks[N_OUTCOMES]
    cdef double total[N_PARTS + 2]
    cdef double largest[N_PARTS + 2]
    cdef long long read_count
    cdef long long read_bytes
    cdef long long read_largest


cdef class ExecuteMetrics:
    # Guarded by the GIL, from any thread, whether or not it holds the core's lock. That is enough
    # because whatever changes figures (`count`, `swap`) is plain C on objects found beforehand: it
    # neither allocates nor lets go of anything, so that no other thread can come in between.
    # Looking a row up and making one can be interrupted, see `find`.
    cdef dict rows  # {span_id: {prefix: Row}}
    cdef Row last  # the row that was used last, or None; it is in `rows`
    cdef list reports  # (span_id, prefix, label, unit, value) of what tasks reported by themselves
    cdef long long tasks[N_OUTCOMES]  # ever
    cdef readonly long long dropped  # durations that found no room, ever

    cdef double* durations  # of tasks that did not fail, in seconds; NULL: not asked for
    cdef int n_durations
    cdef int capacity
    cdef bint asked  # `wake` has been called since the last drain
    cdef public object wake  # callable without arguments, or None

    cdef int add(self, object span_id, object prefix, Sample* s, Outcome outcome) except -1
    cdef int add_extra(
        self, object span_id, object prefix, object label, object value, object unit,
        Outcome outcome,
    ) except -1

    cdef Row find(self, object span_id, object prefix)
    cdef void count(self, Row row, Sample* s, Outcome outcome) noexcept
    cdef int ask(self) except -1


cdef void split(
    Sample* s, double elapsed, double in_executor, double in_call, double cpu, double reported,
    double around,
) noexcept nogil
