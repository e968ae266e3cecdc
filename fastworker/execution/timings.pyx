"""Where the time of plain tasks went: counted natively, made into named figures when read.

distributed gives each run of a task a ledger that collects ``(label, value, unit)``, and enters
each of these in four mappings when the run has ended. Here a run adds a few numbers to the row of
its span and prefix; `ExecuteMetrics.drain` enters the sums under the names that distributed uses.
"""

from cpython.array cimport array, clone
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.stdlib cimport free, malloc

from fastworker.config.logs import get_logger

logger = get_logger("execution")

cdef enum:
    MAX_DURATIONS = 1 << 16
    MANY_REPORTS = 4096

#: (label, unit) of every figure of a row
cdef tuple LABELS = (
    ("thread-cpu", "seconds"),
    ("thread-noncpu", "seconds"),
    ("executor", "seconds"),
    ("other", "seconds"),
    ("failed", "seconds"),
    ("cancelled", "seconds"),
    ("memory-read", "count"),
    ("memory-read", "bytes"),
)

cdef tuple OUTCOMES = ("success", "failed", "cancelled")

cdef Group[N_OUTCOMES] GROUP_OF = [PARTS, FAILURES, CANCELLATIONS]

cdef array DOUBLES = array("d")


cdef void split(
    Sample* s, double elapsed, double in_executor, double in_call, double cpu, double reported,
    double around,
) noexcept nogil:
    """Share out the time of one run, so that no second is counted twice.

    Parameters
    ----------
    elapsed, in_executor, in_call
        Seconds from the decision to run the task until its end was dealt with; of these, in the
        thread; of these, in the call.
    cpu
        Seconds on the processor, in the call.
    reported, around
        Seconds for which there are reports with labels of their own: of the task, from inside the
        call; of reading inputs and storing the result, outside of the thread's time.
    """
    s.elapsed = max(0.0, elapsed)
    s.duration = max(0.0, in_call)
    s.thread_cpu = max(0.0, cpu - reported)
    in_call -= reported + s.thread_cpu
    s.thread_noncpu = max(0.0, in_call)
    in_executor -= reported + s.thread_cpu + s.thread_noncpu
    s.executor = max(0.0, in_executor)
    elapsed -= around + reported + s.thread_cpu + s.thread_noncpu + s.executor
    s.other = max(0.0, elapsed)


cdef inline bint is_of(Row row, object span_id, object prefix) noexcept:
    """Whether it is the row of that span and prefix, as far as a glance can tell."""
    if row.prefix is not prefix:
        return False
    if row.span_id is span_id:
        return True
    return type(span_id) is str and row.span_id is not None and (
        <str>row.span_id == <str>span_id
    )


cdef class Row:
    """What all tasks of one span and prefix added up to since the last drain."""

    def __cinit__(self, span_id, str prefix not None):
        self.span_id = span_id
        self.prefix = prefix


cdef class ExecuteMetrics:
    """Counters of the time that plain tasks took, by span and prefix.

    Parameters
    ----------
    durations: bool
        Keep the duration of each task too, for the quantiles of "task-duration". At most 65536 of
        them are kept between two drains; those that find no room are missing from the quantiles.
    """

    def __cinit__(self, bint durations=False):
        self.rows = {}
        self.reports = []
        if durations:
            self.durations = <double*>malloc(MAX_DURATIONS * sizeof(double))
            if self.durations == NULL:
                raise MemoryError
            self.capacity = MAX_DURATIONS

    def __dealloc__(self):
        free(self.durations)

    # From the threads

    cdef int add(self, object span_id, object prefix, Sample* s, Outcome outcome) except -1:
        """Count one run of a task.

        Raises TypeError unless `span_id` is a str or None, and `prefix` a str; not of a subclass.
        """
        if self.last is not None and is_of(self.last, span_id, prefix):
            self.count(self.last, s, outcome)
        else:
            self.count(self.find(span_id, prefix), s, outcome)
        if self.n_durations >= self.capacity // 2 and not self.asked and self.capacity:
            self.ask()
        return 0

    cdef int add_extra(
        self, object span_id, object prefix, object label, object value, object unit,
        Outcome outcome,
    ) except -1:
        """Keep what a task reported with `distributed.metrics.context_meter`.

        Goes before the `add` of the same run. Unless the task succeeded, its seconds are all part
        of one sum, and seconds that were reported are let go.
        """
        if outcome != SUCCESS and type(unit) is str and <str>unit == "seconds":
            return 0
        self.reports.append((span_id, prefix, label, unit, value))
        if len(self.reports) >= MANY_REPORTS and not self.asked:
            self.ask()
        return 0

    def record(
        self, span_id, prefix, *, outcome="success", double thread_cpu=0.0,
        double thread_noncpu=0.0, double executor=0.0, double other=0.0, double elapsed=0.0,
        double duration=-1.0, long long read_count=0, long long read_bytes=0,
        long long read_largest=0,
    ):
        """Count one run of a task, from Python.

        Raises ValueError for an unknown outcome, TypeError if `span_id` is neither a str nor None
        or if `prefix` is not a str.
        """
        cdef Sample s
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {OUTCOMES}; got {outcome!r}")
        s.thread_cpu, s.thread_noncpu, s.executor = thread_cpu, thread_noncpu, executor
        s.other, s.elapsed, s.duration = other, elapsed, duration
        s.read_count, s.read_bytes, s.read_largest = read_count, read_bytes, read_largest
        self.add(span_id, prefix, &s, <Outcome><int>OUTCOMES.index(outcome))

    def report(self, span_id, prefix, label, value, unit, *, outcome="success"):
        """Keep what a task reported by itself; see `record`."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {OUTCOMES}; got {outcome!r}")
        self.add_extra(
            span_id, prefix, label, value, unit, <Outcome><int>OUTCOMES.index(outcome)
        )

    cdef Row find(self, object span_id, object prefix):
        """The row of that span and prefix, made if need be.

        Another thread may drain while one is made, and take it away. So what is returned was
        looked up after anything was allocated; with exact strings, no lookup runs Python code.
        """
        cdef PyObject* by_prefix
        cdef PyObject* found
        if type(span_id) is not str and span_id is not None:
            raise TypeError(f"the id of a span must be a str or None; got {span_id!r:.100}")
        if type(prefix) is not str:
            raise TypeError(f"the prefix of a key must be a str; got {prefix!r:.100}")
        while True:
            by_prefix = PyDict_GetItem(self.rows, span_id)
            if by_prefix != NULL:
                found = PyDict_GetItem(<dict>by_prefix, prefix)
                if found != NULL:
                    self.last = <Row>found
                    return <Row>found
            self.rows.setdefault(span_id, {}).setdefault(prefix, Row(span_id, prefix))

    cdef void count(self, Row row, Sample* s, Outcome outcome) noexcept:
        if s.read_count:
            if not row.read_count:
                come_up(row, READS)
            row.read_count += s.read_count
            row.read_bytes += s.read_bytes
            row.read_largest = max(row.read_largest, s.read_largest)
        if not row.tasks[<int>outcome]:
            come_up(row, GROUP_OF[<int>outcome])
        row.tasks[<int>outcome] += 1
        self.tasks[<int>outcome] += 1
        if outcome == SUCCESS:
            grow(row, THREAD_CPU, s.thread_cpu)
            grow(row, THREAD_NONCPU, s.thread_noncpu)
            grow(row, EXECUTOR, s.executor)
            grow(row, OTHER, s.other)
        else:
            grow(row, FAILED_SECONDS if outcome == FAILED else CANCELLED_SECONDS, s.elapsed)
        if self.capacity and outcome != FAILED and s.duration >= 0.0:
            if self.n_durations == self.capacity:
                self.dropped += 1
            else:
                self.durations[self.n_durations] = s.duration
                self.n_durations += 1

    cdef int ask(self) except -1:
        """Have the event loop drain, before there is no room left."""
        self.asked = True
        wake = self.wake
        if wake is not None:
            wake()
        return 0

    # For readers of the figures

    @property
    def empty(self):
        """Whether nothing was counted since the last drain."""
        return not self.rows and not self.reports

    @property
    def tasks_total(self):
        """How many runs of tasks were counted, ever, by outcome."""
        return {OUTCOMES[i]: self.tasks[i] for i in range(<int>N_OUTCOMES)}

    def drain(self, total, since_heartbeat, largest, digests):
        """Move what was counted into a server's mappings, as its ``digest_metric`` would have.

        Parameters
        ----------
        total, since_heartbeat, largest: MutableMapping
            ``digests_total``, ``digests_total_since_heartbeat`` and ``digests_max``.
        digests: MutableMapping or None
            ``digests``: makes a ``distributed.counter.Digest`` for a name it does not have. Only
            "task-duration" is entered there, for the reason that `Metrics.digest_metric` gives.

        The mappings are the caller's to guard.
        """
        cdef Row row
        cdef dict rows, fresh = {}
        cdef list reports, none = []
        cdef double* fresh_durations = NULL
        cdef double* durations = NULL
        cdef int n_durations = 0
        cdef dict by_prefix, by_row = {}

        if self.capacity:
            fresh_durations = <double*>malloc(MAX_DURATIONS * sizeof(double))
            if fresh_durations == NULL:
                raise MemoryError
        # From here to the next comment no other thread comes in between: nothing is allocated,
        # and all that is let go has another owner.
        rows, self.rows = self.rows, fresh
        reports, self.reports = self.reports, none
        self.last = None
        if self.capacity:
            durations, self.durations = self.durations, fresh_durations
            n_durations, self.n_durations = self.n_durations, 0
        self.asked = False
        # What there was is ours alone now.

        try:
            if digests is not None and n_durations:
                enter_durations(digests, durations, n_durations)
        finally:
            free(durations)
        for report in reports:
            by_row.setdefault(report[:2], []).append(report)
        for by_prefix in rows.values():
            for row in by_prefix.values():
                enter_row(
                    row, by_row.pop((row.span_id, row.prefix), ()),
                    total, since_heartbeat, largest,
                )
        for rest in by_row.values():
            enter_reports(rest, total, since_heartbeat, largest)


cdef inline void grow(Row row, int figure, double value) noexcept:
    row.total[figure] += value
    if value > row.largest[figure]:
        row.largest[figure] = value


cdef inline void come_up(Row row, Group group) noexcept:
    row.groups[row.n_groups] = group
    row.n_groups += 1


cdef int enter(
    object name, object value, object most, object total, object since_heartbeat, object largest
) except -1:
    total[name] = total.get(name, 0) + value
    since_heartbeat[name] = since_heartbeat.get(name, 0) + value
    largest[name] = max(largest.get(name, 0), most)
    return 0


cdef int enter_reports(
    object reports, object total, object since_heartbeat, object largest
) except -1:
    for span_id, prefix, label, unit, value in reports:
        name = ("execute", span_id, prefix, label, unit)
        try:
            enter(name, value, value, total, since_heartbeat, largest)
        except Exception:
            # It is the task's, and no reason to lose what others have counted
            logger.exception("Cannot count what a task reported: %r, %r", name, value)
    return 0


cdef int enter_row(
    Row row, object reports, object total, object since_heartbeat, object largest
) except -1:
    """All of a row, new names in the order in which a ledger would have brought them."""
    cdef tuple head = ("execute", row.span_id, row.prefix)
    cdef int i, figure
    cdef bint reported = False
    for i in range(row.n_groups):
        if row.groups[i] != READS and not reported:
            # Where a task that reads its inputs reports before it ends
            enter_reports(reports, total, since_heartbeat, largest)
            reported = True
        if row.groups[i] == READS:
            enter(
                head + LABELS[<int>READ_COUNT], row.read_count, 1,
                total, since_heartbeat, largest,
            )
            enter(
                head + LABELS[<int>READ_BYTES], row.read_bytes, row.read_largest,
                total, since_heartbeat, largest,
            )
        elif row.groups[i] == PARTS:
            for figure in range(<int>N_PARTS):
                enter(
                    head + LABELS[figure], row.total[figure], row.largest[figure],
                    total, since_heartbeat, largest,
                )
        else:
            figure = FAILED_SECONDS if row.groups[i] == FAILURES else CANCELLED_SECONDS
            enter(
                head + LABELS[figure], row.total[figure], row.largest[figure],
                total, since_heartbeat, largest,
            )
    return 0


cdef int enter_durations(object digests, double* durations, int n) except -1:
    """Give them all to their digest at once."""
    cdef int i
    cdef array values = clone(DOUBLES, n, False)
    for i in range(n):
        values.data.as_doubles[i] = durations[i]
    digests["task-duration"].update(values)
    return 0
