"""What reaches the core, where its answers go, and which thread runs a task.

Stimuli come from the event loop's thread and from the threads that run plain tasks. The engine has
each handled under the core's lock and routes the core's answers under the same lock, so that
messages leave in the order in which the core made them. It releases the lock before anything that
may run user code, wait or touch the event loop. A caller that holds the lock while the engine
handles an event (a call by hand that must look and act at once, or a plugin's `transition`) calls
`follow` after it has released the lock.
"""

from contextvars import copy_context
from functools import partial

from dask._task_spec import Task

from distributed.worker import WORKER_ANY_RUNNING, _worker_cvar
from distributed.worker_state_machine import RUN_ID_SENTINEL, SecedeEvent

from fastworker.core.events cimport process
from fastworker.core.messages cimport ComputeTask
from fastworker.core.records cimport Run
from fastworker.core.worker_state cimport WorkerState
from fastworker.core.states cimport ERROR, MEMORY, RELEASED
from fastworker.core.task cimport TaskState
from fastworker.data.lru cimport ResultLRU

from fastworker.core.records import to_instructions
from fastworker.execution import outcome
from fastworker.execution.instructions import carry_out

cdef extern from "Python.h":
    ctypedef struct PyObject
    ctypedef struct PyCodeObject:
        int co_flags
    ctypedef struct PyFunctionObject:
        PyObject* func_dict
        PyObject* func_code
    bint PyFunction_Check(object o)
    bint PyCFunction_Check(object o)
    int CO_COROUTINE
    int CO_ITERABLE_COROUTINE


cdef tuple RUNNING = tuple(WORKER_ANY_RUNNING)

#: Methods that distributed's worker calls for each task on the event loop, and the engine does not.
NOT_CALLED = frozenset({"execute", "handle_stimulus", "batched_send", "digest_metric"})


cdef bint is_coroutine(object run_spec) except -1:
    """``run_spec.is_coro``, but without the introspection for what is plainly a plain function."""
    if type(run_spec) is not Task:
        return bool(run_spec.is_coro)
    func = run_spec.func
    if PyCFunction_Check(func):
        return False
    if PyFunction_Check(func) and (<PyFunctionObject*>func).func_dict == NULL:
        # A function is marked as a coroutine function by an attribute, and this one has none
        return (
            (<PyCodeObject*>(<PyFunctionObject*>func).func_code).co_flags
            & (CO_COROUTINE | CO_ITERABLE_COROUTINE)
        ) != 0
    return bool(run_spec.is_coro)


cdef class Engine:
    """Drives the core of one worker.

    Parameters
    ----------
    worker: fastworker.Worker
    state: WorkerState
    pool: PullThreadPoolExecutor
        Runs plain tasks for as long as it is the worker's default executor.
    """

    def __init__(self, worker, WorkerState state not None, pool):
        self.worker = worker
        self.state = state
        self.outbox = worker.batched_stream
        self.pool = pool
        self.put = pool._work_queue.put
        self.worker_vars = vars(worker)
        self.executors = worker.executors
        self.execution_state = worker.execution_state
        fast = getattr(worker.data, "fast", None)
        self.memory = fast if isinstance(fast, ResultLRU) else None
        self.broken_by = ()
        self.decided = []
        self.look_at_methods()

    def start(self, loop):
        """Begin to use threads. Call it in the event loop, in the context that tasks are to have.

        Until then the event loop executes all tasks, as in distributed.
        """
        self.loop = loop
        self.context = copy_context()
        self.context.run(_worker_cvar.set, self.worker)

    cdef bint running(self) except -1:
        """Whether the worker is in a state in which tasks may begin."""
        status = self.worker_vars["_status"]
        for running in RUNNING:
            if status is running:
                return True
        return False

    def look_at_methods(self):
        """Call this when an attribute of the worker named in `NOT_CALLED` has been set or deleted.

        While a function of the user's has the place of such a method, the event loop executes all
        tasks, and so calls it.
        """
        self.replaced = any([name in self.worker_vars for name in NOT_CALLED])
        self.sends = "batched_send" not in self.worker_vars

    cdef bint is_plain(self, TaskState ts) except -1:
        """Whether a pull thread may run the task; the event loop executes the others.

        Runs no user code for the usual kinds of tasks; ``is_coro`` of an unusual one reads
        attributes of the function.
        """
        cdef TaskState dep
        cdef dict actors = self.state.actors
        if self.loop is None or self.state.hooks is not None or ts.run_spec is None:
            return False
        if self.executors.get("default") is not self.pool or self.replaced:
            return False
        if ts.annotations and ts.annotations.get("executor", "default") != "default":
            return False
        if actors:
            if ts.key in actors:
                return False
            if ts.dependencies_ is not None:
                for dep in ts.dependencies_:
                    if dep.key in actors:
                        return False
        return not is_coroutine(ts.run_spec)

    cdef Run route(self, list records, bint take, list others):
        """Pass on the core's answers; the caller holds the lock.

        Messages go to the outbox, in order. Returns the first plain task if `take`, or else None;
        the pool gets the other plain tasks. Adds to `others` what the event loop has to carry out.
        """
        cdef Run mine = None
        for record in records:
            if type(record) is Run:
                if not self.is_plain((<Run>record).task):
                    others.append(record)
                elif take and mine is None:
                    mine = <Run>record
                else:
                    self.put(record)
                    self.n_put += 1
            elif not self.sends or not self.outbox.add_record(record):
                others.append(record)
        return mine

    cdef int add_threads(self) except -1:
        """Start threads, up to the pool's limit, for the tasks that `route` has put into the queue.

        Not under the core's lock: `Thread.start` waits for the new thread, which may first run a
        finalizer that wants the lock.
        """
        cdef Py_ssize_t n
        n, self.n_put = self.n_put, 0
        while n > 0 and len(self.pool._threads) < self.pool._max_workers:
            self.pool._adjust_thread_count()
            n -= 1
        return 0

    cdef int call_loop(self, object callback, object arg) except -1:
        """Have the event loop call something. Does nothing if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(callback, arg)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
        return 0

    cdef bint is_late(self, tuple stims) except -1:
        """Whether the only event is that a task has seceded, and the task has ended by now.

        distributed's `secede` has the event loop handle that event, and the task's thread may be
        faster. For a key that was not run here the event is an error. The caller holds the lock.
        """
        cdef TaskState ts
        if len(stims) != 1 or type(stims[0]) is not SecedeEvent:
            return False
        ts = self.state.tasks.get(stims[0].key)
        return (
            ts is not None and ts.run_id != RUN_ID_SENTINEL
            and ts.state_ in (MEMORY, ERROR, RELEASED)
        )

    # ------------------------------------------------------------------- from the event loop

    def handle(self, *stims):
        """Let the core handle events of ``distributed.worker_state_machine``."""
        self.state.lock.acquire()
        try:
            if self.is_late(stims):
                return
            self.route(self.state.handle_events(stims), False, self.decided)
        finally:
            self.state.lock.release()
        self.follow()

    def carry_out(self, list instructions not None):
        """Carry out instructions that the core, or a call by hand, has given."""
        self.state.lock.acquire()
        try:
            self.route(instructions, False, self.decided)
        finally:
            self.state.lock.release()
        self.follow()

    cpdef take_on(self, list messages):
        """Handle messages of the scheduler's in order: each a `ComputeTask` or `FreeKeys`.

        The caller keeps the list until this returns, so that nothing a message holds is deallocated
        under the lock.
        """
        cdef list records = []
        message = None
        self.state.lock.acquire()
        try:
            for message in messages:
                process(self.state, message, records)
            message = None  # what follows is about all of them
            self.route(records, False, self.decided)
        except Exception:
            # The worker closes: it begins nothing of what the earlier messages asked for
            if type(message) is ComputeTask:
                self.broken_by = ((<ComputeTask>message).key,)
            raise
        finally:
            self.state.lock.release()
        self.follow()

    cpdef int follow(self) except -1:
        """What comes after the core has handled events in the event loop.

        Does nothing while the calling thread holds the lock: it calls this again without. With a
        thread free, messages leave at once, since the scheduler answers them with work. With all
        threads busy they are collected, as in distributed.
        """
        cdef list decided
        if self.state.lock.is_held():
            return 0
        if self.n_put:
            self.add_threads()
        if self.decided:
            decided, self.decided = self.decided, []
            carry_out(self.worker, to_instructions(decided))
        return self.outbox.send_soon(len(self.state.executing) < self.state.nthreads)

    # ------------------------------------------------------------------- from a pull thread

    cdef int after(self, list others, bint idle) except -1:
        """The same after an event that was handled in a pull thread; `idle`: it took no task."""
        if self.n_put:
            self.add_threads()
        if others:
            self.call_loop(partial(carry_out, self.worker), to_instructions(others))
        return self.outbox.send_soon(idle)

    cdef int leave_to_loop(self, object event) except -1:
        """Have the event loop handle an event: plugins expect their `transition` calls there."""
        return self.call_loop(self.worker.handle_stimulus, event)

    cdef int end_loop(self, object key, object error) except -1:
        """Have SystemExit or KeyboardInterrupt of a task end the event loop, and the process.

        It is raised where it is when the event loop executes a task: in an asyncio task and once
        more in the callback at the end of that task. After the first time `asyncio.run` cancels
        what is left on the loop. Without the second time the worker would then close in good order
        and take its nanny along, which is to start another worker.
        """
        return self.call_loop(
            partial(self.worker._start_async_instruction, f"execute({key!r})", outcome.throw), error
        )
