"""What one thread does with one plain task after the other.

The thread takes a task, runs it, tells the core and takes the next one, without the event loop.
User code finds what it finds in a thread of ``distributed.Worker``.
"""

from cpython.ref cimport Py_INCREF
from cpython.set cimport PySet_Add, PySet_Discard
from libc.string cimport memcpy, strlen

from functools import partial

from distributed import threadpoolexecutor
from distributed.utils import thread_state
from distributed.worker_state_machine import ExecuteSuccessEvent, RescheduleEvent

from fastworker.core.clock cimport clockid_t, read_clock, wall_clock
from fastworker.core.events cimport process_begun
from fastworker.core.machine cimport begin
from fastworker.core.messages cimport Success, success
from fastworker.core.records cimport Run, describe_type
from fastworker.core.states cimport CANCELLED, MEMORY
from fastworker.core.task cimport TaskState
from fastworker.core.storage cimport MISSING
from fastworker.data.lru cimport as_weight
from fastworker.data.sizes cimport nbytes_of
from fastworker.execution.engine cimport Engine
from fastworker.execution.timings cimport CANCELLED as RUN_FOR_NOTHING
from fastworker.execution.timings cimport FAILED, SUCCESS, Outcome, split

from fastworker.execution import outcome
from fastworker.execution.contexts import Contexts

cdef extern from *:
    """
    static PyObject *traceback_of(PyObject *error) {
        PyObject *trace = PyException_GetTraceback(error);
        return trace ? trace : (Py_INCREF(Py_None), Py_None);
    }
    """
    object traceback_of(object error)

cdef extern from "Python.h":
    int PyException_SetTraceback(object error, object trace) except -1
    object PyContext_Copy(object ctx)
    int PyContext_Enter(object ctx) except -1
    int PyContext_Exit(object ctx) except -1
    unsigned long PyThread_get_thread_ident()
    void PyErr_SetExcInfo(object cls, object error, object traceback)
    object PyUnicode_FromStringAndSize(const char* u, Py_ssize_t size)

cdef extern from "<time.h>" nogil:
    const clockid_t CLOCK_THREAD_CPUTIME_ID

cdef enum:
    DECIMALS = 7  # of the seconds in a stimulus id, as distributed has them
    TICKS = 10_000_000

cdef double SLOW_DISK = 0.005  # seconds; what took longer was read from disk or written there
cdef str HERE = "execution/runner.pyx"  # the file that Cython names in tracebacks


cdef object stamped(const char* what):
    """A stimulus id: what happened (in a few words), and when."""
    cdef char[64] text
    cdef char* end = text + sizeof(text)
    cdef char* p = end
    cdef double now = wall_clock()
    cdef long long seconds = <long long>now
    cdef long long digits = seconds * TICKS + <long long>((now - <double>seconds) * TICKS)
    cdef size_t n = strlen(what)
    # From the last digit to the first. snprintf takes four times as long, which is one part in
    # fourteen of all that a task costs here
    while digits:
        p -= 1
        p[0] = <char>(c"0" + digits % 10)
        digits //= 10
        if end - p == DECIMALS:
            p -= 1
            p[0] = c"."
    p -= n + 1
    memcpy(p, what, n)
    p[n] = c"-"
    return PyUnicode_FromStringAndSize(p, end - p)


cdef double seconds_of(list reports) except? -1.0:
    """What (label, value, unit) in seconds add up to."""
    cdef double seconds = 0.0
    for _label, value, unit in reports:
        if unit == "seconds":
            seconds += value
    return seconds


cdef int begin_traceback_with_task(object error) except -1:
    """Leave our own frames out of the traceback of the exception that is being handled."""
    # Not by attributes: the class of a user's exception may override them
    trace = traceback_of(error)
    while trace is not None and trace.tb_frame.f_code.co_filename.endswith(HERE):
        trace = trace.tb_next
    PyException_SetTraceback(error, trace)
    cls = type(error)
    # Python 3.10 keeps the traceback of sys.exc_info() apart. References are taken over.
    Py_INCREF(cls)
    Py_INCREF(error)
    Py_INCREF(trace)
    PyErr_SetExcInfo(cls, error, trace)
    return 0


cdef class Runner:
    """Runs plain tasks in the thread that made it.

    Parameters
    ----------
    engine: Engine
    """

    def __init__(self, Engine engine not None):
        worker = engine.worker
        self.engine = engine
        self.state = engine.state
        self.pool = engine.pool
        self.ident = PyThread_get_thread_ident()
        self.thread_state = thread_state.__dict__
        self.pool_state = threadpoolexecutor.thread_state.__dict__
        self.active_threads = worker.active_threads
        self.active_keys = worker.active_keys
        self.threads = self.state.threads
        self.metrics = worker.execute_metrics
        self.extras = []
        self.contexts = Contexts(engine.context, self.extras)
        self.base = self.contexts.base
        self.home = self.contexts.get(None)
        self.processor = read_clock(CLOCK_THREAD_CPUTIME_ID)

    def close(self):
        """Call this when the thread ends."""
        self.contexts.close()

    def begin(self, Run first not None):
        """Take a task, which `run` then runs; the caller need not keep it.

        Returns False if there was an error, for which the worker closes.
        """
        try:
            self.state.lock.acquire()
            try:
                self.take(first)
            finally:
                self.state.lock.release()
            return True
        except BaseException as error:
            self.break_down(error)
            return False

    def run(self):
        """Run the task that was taken, and then whatever the core has for this thread."""
        try:
            while self.run_one():
                pass
        except BaseException as error:
            self.break_down(error)

    cdef int break_down(self, object error) except -1:
        """Have the worker close: the error is not the task's, the state is inconsistent."""
        keys = () if self.concerned is None else (self.concerned,)
        return self.engine.call_loop(
            partial(self.engine.worker._fail_as_thread_did, error), keys
        )

    # ------------------------------------------------------------------------- one task

    cdef int take(self, Run run) except -1:
        """Copy all that is needed of the task; the caller holds the lock.

        From here on the thread holds the inputs, also if their keys are released.
        """
        cdef TaskState ts = run.task, dep
        self.ts = ts
        self.key = ts.key
        self.run_id = ts.run_id
        self.run_spec = ts.run_spec
        self.span_id = ts.span_id
        self.span = ts.annotations.get("span") if ts.annotations else None
        self.prefix = ts.counts.prefix
        self.when = run.when
        self.ran = False
        self.cpu = self.around = self.reported = 0.0
        self.sample.read_count = self.sample.read_bytes = self.sample.read_largest = 0
        self.inputs = {}
        self.absent = None
        if ts.dependencies_ is None:
            return 0
        for dep in ts.dependencies_:
            value = self.state.look(dep.key)
            if value is MISSING:
                if self.absent is None:
                    self.absent = []
                self.absent.append(dep.key)
                continue
            self.inputs[dep.key] = value
            if self.state.values is not None:
                self.sample.read_count += 1
                self.sample.read_bytes += dep.nbytes_
                self.sample.read_largest = max(self.sample.read_largest, dep.nbytes_)
        return 0

    cdef tuple drop(self):
        """Let go of the task in hand.

        Returns what may run user code when it is deallocated; the caller keeps it until it has
        released the lock.
        """
        cdef tuple held = (self.run_spec, self.inputs)
        self.ts = None
        self.key = self.concerned = None
        self.run_spec = None
        self.span = None
        self.inputs = None
        self.absent = None
        self.extras.clear()
        return held

    cdef bint run_one(self) except -1:
        """Run the task that was taken. Returns whether another one has been taken."""
        self.concerned = self.key
        self.began = self.start = self.stop = wall_clock()
        if self.ts.state_ == CANCELLED or not self.engine.running():
            return self.end(RescheduleEvent(key=self.key, stimulus_id=stamped("not-started")))
        try:
            self.compute()
            describe_type(type(self.value))  # may run code of its metaclass's
        except BaseException as error:
            self.value = None
            begin_traceback_with_task(error)
            return self.fail(error)
        self.make_room()
        return self.succeed()

    cdef int compute(self) except -1:
        """Read the inputs that are not in memory, and call the task in a context of its own.

        `active_threads` and `active_keys` are changed without ``Worker.active_threads_lock``:
        each change is one dict or set operation on plain keys, which no thread can see half of,
        and readers copy them in one operation too.
        """
        cdef object context
        self.ts.start_time_ = self.began  # for readers of active_keys while inputs are read in
        PySet_Add(self.active_keys, self.key)
        try:
            if self.absent is not None:
                self.read_absent()
            if self.span is None:
                context = PyContext_Copy(self.base)
            else:
                context = self.contexts.get(self.span)
            self.ts.start_time_ = self.start = self.stop = wall_clock()
            self.active_threads[self.ident] = self.key
            self.thread_state["start_time"] = self.start
            self.thread_state["key"] = self.key
            self.thread_state["execution_state"] = self.engine.execution_state
            PyContext_Enter(context)
            try:
                self.ran = True
                self.value = self.run_spec(self.inputs)
                # May run code of the result's type, which is the task's as much as any
                self.nbytes = nbytes_of(self.value)
            finally:
                self.stop = self.left = wall_clock()
                self.read_processor()
                PyContext_Exit(context)
                del self.thread_state["start_time"]
                del self.thread_state["key"]
                del self.thread_state["execution_state"]
                del self.active_threads[self.ident]
            return 0
        finally:
            PySet_Discard(self.active_keys, self.key)
            if self.extras:
                self.reported = seconds_of(self.extras) - self.around

    cdef int read_processor(self) noexcept:
        """Set `cpu`: the seconds that the call took on the processor.

        Reading this clock is expensive, so it is read once a task. The difference includes the some
        microseconds of the thread's own work between two calls, hence the bound.
        """
        cdef double now = read_clock(CLOCK_THREAD_CPUTIME_ID)
        self.cpu = min(now - self.processor, self.stop - self.start)
        self.processor = now
        return 0

    cdef int read_absent(self) except -1:
        """Read the inputs that are not in memory from the worker's data."""
        cdef double start = wall_clock(), stop
        self.contexts.run(self.read_inputs)
        stop = wall_clock()
        if stop - start > SLOW_DISK:
            self.ts.startstops.append({"action": "disk-read", "start": start, "stop": stop})
        self.began = stop
        self.around = seconds_of(self.extras)
        self.processor = read_clock(CLOCK_THREAD_CPUTIME_ID)
        return 0

    def read_inputs(self):
        data = self.engine.worker.data
        for key in self.absent:
            self.inputs[key] = data[key]

    cdef int make_room(self) except -1:
        """Spill what the result pushes out of memory, before it is reported to the scheduler.

        The scheduler would send more tasks while there is no room. The report includes the time.
        """
        cdef double start, stop
        if (
            self.engine.memory is None or type(self.nbytes) is not int
            or not self.engine.memory.lacks_room(as_weight(self.nbytes))
        ):
            return 0
        start = wall_clock()
        self.spill(self.span_id, self.prefix, self.nbytes)
        stop = wall_clock()
        if stop - start > SLOW_DISK:
            self.ts.startstops.append({"action": "disk-write", "start": start, "stop": stop})
        return 0

    # ------------------------------------------------------------------------- how it ended

    cdef int measure(self, Outcome how) except -1:
        """Add the times of the run, up to now, to the metrics. Call this before `drop`."""
        cdef double now = wall_clock()
        if self.extras:
            self.around = seconds_of(self.extras) - self.reported
            for label, value, unit in self.extras:
                self.metrics.add_extra(self.span_id, self.prefix, label, value, unit, how)
        split(
            &self.sample, now - self.when, self.left - self.began if self.ran else 0.0,
            self.stop - self.start, self.cpu, self.reported, self.around,
        )
        if how != SUCCESS:
            self.sample.duration = -1.0
        return self.metrics.add(self.span_id, self.prefix, &self.sample, how)

    cdef bint succeed(self) except -1:
        cdef double delay = self.engine.worker.scheduler_delay
        cdef double start = self.start + delay, stop = self.stop + delay
        cdef bint following = False
        cdef list others = [], records = []
        cdef bint has_hooks
        cdef TaskState ts = self.ts
        cdef Success message
        key, run_id, span_id, prefix = self.key, self.run_id, self.span_id, self.prefix
        value, self.value = self.value, None
        cls = type(value) if value is not None else None
        event = None
        nbytes, self.nbytes = self.nbytes, None
        stimulus_id = stamped("task-finished")
        message = success(key, run_id, value, start, stop, nbytes, cls, stimulus_id)
        self.state.lock.acquire()
        try:
            self.threads[key] = self.ident
            finished = self.engine.finished
            has_hooks = begin(self.state) or self.engine.replaced
            if has_hooks or finished is not None:
                event = ExecuteSuccessEvent(
                    key=key, run_id=run_id, value=value, start=start, stop=stop, nbytes=nbytes,
                    type=cls, stimulus_id=stimulus_id,
                )
            if has_hooks:
                self.engine.leave_to_loop(event)
                self.measure(SUCCESS)
                _held = self.drop()
            else:
                # Storing the result may report to context_meter
                PyContext_Enter(self.home)
                try:
                    process_begun(self.state, message, records)
                finally:
                    PyContext_Exit(self.home)
                if ts.state_ == MEMORY:
                    self.measure(SUCCESS)
                    if not ts.by_hand:
                        ts.run_spec = None  # its arguments may be larger than the result
                else:
                    self.measure(RUN_FOR_NOTHING)
                _held = self.drop()
                following = self.settle(records, others)
            if finished is not None:
                finished(event)
        finally:
            self.state.lock.release()
        if self.engine.memory is not None and self.engine.memory.over_target:
            _held = value = message = event = None  # or spilling would free no memory
            # Another thread has taken the room that was made
            self.spill(span_id, prefix, 0)
        self.engine.after(others, not following)
        return following

    cdef int spill(self, object span_id, object prefix, object room) except -1:
        """Spill until `room` bytes are free; metered with the times of the task just run."""
        cdef double start = wall_clock()
        cdef Py_ssize_t own = len(self.extras)  # reports of the task's run, if not measured yet
        self.contexts.run(partial(self.engine.worker.data.spill_excess, room))
        for label, value, unit in self.extras[own:]:
            self.metrics.add_extra(span_id, prefix, label, value, unit, SUCCESS)
        del self.extras[own:]
        self.processor = read_clock(CLOCK_THREAD_CPUTIME_ID)
        self.when += wall_clock() - start  # so that no task's waiting time includes it
        return 0

    cdef bint fail(self, object error) except -1:
        """Report a run that raised; called while the exception is being handled."""
        if issubclass(type(error), (SystemExit, KeyboardInterrupt)):
            self.engine.end_loop(self.key, error)
            self.drop()
            return False
        delay = self.engine.worker.scheduler_delay
        try:
            if self.ran:
                event = outcome.raised(
                    error, self.ts, self.run_id, self.run_spec, self.start + delay,
                    self.stop + delay,
                )
            else:
                event = outcome.could_not_start(error, self.ts, self.run_id)
        except Exception as unexpected:  # there are errors without a repr, for example
            begin_traceback_with_task(unexpected)
            event = outcome.could_not_start(unexpected, self.ts, self.run_id)
        return self.end(event)

    cdef bint end(self, object event) except -1:
        """Have the core handle an event other than success that ends the run."""
        cdef bint following = False
        cdef list others = [], records = []
        self.state.lock.acquire()
        try:
            self.threads[self.key] = self.ident
            self.measure(RUN_FOR_NOTHING if type(event) is RescheduleEvent else FAILED)
            if begin(self.state) or self.engine.replaced:
                self.engine.leave_to_loop(event)
                _held = self.drop()
            else:
                process_begun(self.state, event, records)
                _held = self.drop()
                following = self.settle(records, others)
            if self.engine.finished is not None:
                self.engine.finished(event)
        finally:
            self.state.lock.release()
        self.engine.after(others, not following)
        return following

    cdef bint settle(self, list records, list others) except -1:
        """Pass on the core's answers; the lock is held. Returns whether a task was taken.

        A thread that has seceded, or is to make room for one that rejoins, takes none.
        """
        cdef bint take = self.pool_state["proceed"] and not self.pool._rejoin_list
        cdef Run following = self.engine.route(records, take, others)
        if following is None:
            return False
        self.take(following)
        return True
