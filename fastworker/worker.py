"""The worker: a thin asyncio shell around the native core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Collection, Coroutine, Hashable, Iterable
from functools import partial
from typing import Any

import dask
import distributed
from dask.typing import Key
from distributed.comm import Comm, CommClosedError
from distributed.core import Status
from distributed.metrics import DelayedMetricsLedger, time
from distributed.protocol.serialize import _is_dumpable
from distributed.spill import SpillBuffer
from distributed.worker import DEFAULT_EXTENSIONS, fail_hard
from distributed.worker_state_machine import (
    AddKeysMsg,
    ComputeTaskEvent,
    StateMachineEvent,
)

from fastworker.comm import give_back, use_configured
from fastworker.config import number_of_threads, worker_setting
from fastworker.control.by_hand import Control
from fastworker.control.closing import break_off, tell_nanny
from fastworker.control.data import remove_replicas
from fastworker.control.ending import end_in_time, end_in_time_after_signals, prepare_process
from fastworker.control.hand_back import HandBack
from fastworker.control.in_process import warn_if_in_process
from fastworker.control.lost_results import result_lost
from fastworker.control.shutdown import shutdown
from fastworker.core import WorkerState
from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.data.store import Store
from fastworker.execution.engine import NOT_CALLED, Engine
from fastworker.execution.stock import StockEngine, make_engine
from fastworker.link.joining import use_scheduler
from fastworker.link.outbox import Outbox
from fastworker.link.reader import NATIVE, SchedulerStream, UnloadableTask
from fastworker.link.waiting import say_what_it_waits_for
from fastworker.monitoring import prometheus
from fastworker.monitoring.breakdown import report_breakdown
from fastworker.monitoring.dashboard import load_dashboard_late
from fastworker.monitoring.heartbeat import beat
from fastworker.monitoring.identity import VERSION, identity_of, introduce, log_start
from fastworker.monitoring.metrics import Figures, kept_in_figures
from fastworker.monitoring.profiling import call_stacks, profile_tasks
from fastworker.monitoring.spans import SpansExtension
from fastworker.monitoring.spare_memory import watch_spare_memory
from fastworker.transfer.fetching import Fetcher
from fastworker.transfer.serving import ResultServer

__all__ = ["DEFAULT_SCHEDULER", "Worker", "shutdown"]

logger = logging.getLogger("distributed.worker")

#: Read at import: a user may put our class into the place of distributed.Worker later.
_status = distributed.Worker.status

#: Where a worker looks for a scheduler that neither an argument nor a setting names.
DEFAULT_SCHEDULER = "tcp://127.0.0.1:8786"

#: Seconds that closing may take for each of its steps.
CLOSE_TIMEOUT = 30.0


@fail_hard  # type: ignore[untyped-decorator]
async def gather_dep(worker: Worker, *transfer: Any) -> StateMachineEvent:
    """A transfer from a peer. The reason of a close names it, as distributed's."""
    return await worker._fetcher.fetch(*transfer)


class Worker(Control, distributed.Worker):
    """``distributed.Worker`` on fastworker's native task state machine.

    Takes what ``distributed.Worker`` takes. With no address at all - neither an argument, nor a
    scheduler file, nor ``scheduler-address`` in the Dask configuration - it joins the scheduler
    at port 8786 of this machine.
    """

    batched_stream: Outbox
    _engine: Engine | StockEngine

    def __init__(
        self,
        scheduler_ip: str | None = None,
        scheduler_port: int | None = None,
        **kwargs: Any,
    ) -> None:
        use_configured()
        prepare_process()
        if kwargs.get("nthreads") is not None:
            kwargs["nthreads"] = number_of_threads(kwargs["nthreads"])
        self._figures = Figures()
        self.execute_metrics = self._figures.of_tasks
        self._fetcher = Fetcher(self)
        self._result_server = ResultServer(self)
        self._awaited = {}
        self._hand_back = HandBack(self, worker_setting("hand-back-after"))
        by_default = (
            scheduler_ip is None
            and not kwargs.get("scheduler_file")
            and not dask.config.get("scheduler-address", None)
        )
        if by_default:
            scheduler_ip = DEFAULT_SCHEDULER if scheduler_port is None else "127.0.0.1"
        kwargs.setdefault("WorkerStateClass", WorkerState)
        extensions = kwargs.pop("extensions", None)
        if extensions is None:
            extensions = {**DEFAULT_EXTENSIONS, "spans": SpansExtension}
        super().__init__(scheduler_ip, scheduler_port, extensions={}, **kwargs)
        if by_default and (configured := dask.config.get("scheduler-address", None)):
            # By a preload, which has run since.
            use_scheduler(self, configured, kwargs.get("protocol"))
        introduce(self)
        self._figures.count_with(self.state, partial(self.loop.add_callback, self._figures.drain))
        watch_spare_memory(self.monitor, self.memory_manager)
        if kwargs.get("data") is None:
            self._use_store()
        self.batched_stream = Outbox(interval="2ms", loop=self.loop)
        overrides = any(
            getattr(type(self), name) is not getattr(Worker, name) for name in NOT_CALLED
        )
        self._engine = make_engine(self, overrides)
        self.stream_handlers["compute-task"] = self._handle_compute_task
        self.stream_handlers["remove-replicas"] = partial(remove_replicas, self)
        self._native_handlers = {op: self.stream_handlers[op] for op in NATIVE.values()}
        # Not before: an extension may keep any part of the worker, or replace it
        self.extensions = {name: extension(self) for name, extension in extensions.items()}

    # The engine does not call the methods of NOT_CALLED for plain tasks. For as long as a user, or
    # a plugin, has set one of them on the worker, it leaves tasks to the event loop, which does.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in NOT_CALLED and "_engine" in vars(self):  # else it looks when it is made
            self._engine.look_at_methods()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in NOT_CALLED and "_engine" in vars(self):
            self._engine.look_at_methods()

    @_status.setter  # type: ignore[untyped-decorator]
    def status(self, value: Status) -> None:
        """As ``distributed.Worker.status``; setting it starts or stops the timer of a pause.

        Only the thread of the event loop may set it.
        """
        _status.__set__(self, value)
        self._hand_back.look_at_status()

    async def register(self) -> None:
        """Join the scheduler, starting the worker if need be; does nothing if it has joined.

        Raises RuntimeError if the worker is closed: a worker joins once in its life.
        """
        if self.status in (Status.closing, Status.closed, Status.failed):
            raise RuntimeError(f"{self!r} cannot register: it is {self.status.name}")
        await self.start()

    async def start_unsafe(self) -> Worker:
        end_in_time_after_signals(
            "Worker", CLOSE_TIMEOUT, asyncio.get_running_loop(), self._release_workdir
        )
        warn_if_in_process(self)
        log_start(self)
        await super().start_unsafe()
        return self

    async def _register_with_scheduler(self) -> None:
        waiting = asyncio.create_task(
            say_what_it_waits_for(logger, self.scheduler.address, self.connection_args)
        )
        try:
            await super()._register_with_scheduler()
        finally:
            waiting.cancel()

    async def close(
        self,
        timeout: float = CLOSE_TIMEOUT,
        executor_wait: bool = True,
        nanny: bool = True,
        reason: str = "worker-close",
        report: bool = True,
    ) -> str | None:
        """Leave the cluster and free everything the worker holds.

        Parameters
        ----------
        timeout
            Seconds to wait for each of: tasks on the event loop, the stream, each executor.
        executor_wait
            Whether to wait for the threads that run tasks.
        nanny
            Whether to close the worker's nanny too; it would start a new worker otherwise.
        reason
            For the logs.
        report
            If False, drop messages that have not been sent yet. The scheduler finds out from the
            closed connection.

        Returns
        -------
        "OK", or None if the worker was closing already.
        """
        begins = self.status not in (Status.closing, Status.closed, Status.failed)
        if begins:
            end_in_time(
                f"Worker at {self.address_safe} (reason: {reason})",
                timeout,
                asyncio.get_running_loop(),
                self._release_workdir,
            )
            if not report:
                self.batched_stream.abort()
        if begins and nanny and self.nanny and self.status != Status.init:
            await tell_nanny(self, reason, timeout)
        never_listened = begins and not self.listeners
        if never_listened:
            # distributed asks for the address to log that it closes, and logs a traceback without
            self._address = self.address_safe
        try:
            result: str | None = await super().close(
                timeout=timeout, executor_wait=executor_wait, nanny=False, reason=reason
            )
        except BaseException:
            if begins and self.status != Status.closed:
                break_off(self)
            raise
        finally:
            if never_listened:
                self._address = None
            give_back()
        return result

    def _release_workdir(self) -> None:
        if self._workdir is not None:
            self._workdir.release()

    # From the scheduler

    async def handle_scheduler(self, comm: Comm) -> None:
        """Handle the messages of the scheduler's stream until it ends, then close.

        Tasks get the context variables of the caller, as with distributed: those that preloads
        have set, for example.
        """
        self._engine.start(asyncio.get_running_loop())
        await super().handle_scheduler(SchedulerStream(comm, self._handle_native))

    def _handle_native(self, messages: list[ComputeTask | FreeKeys]) -> bool:
        """Give messages to the engine; False if they are for the handlers of their ops.

        They are with a `StockEngine`, and if a user has replaced such a handler. That may be a
        coroutine function, which the stream's loop awaits.
        """
        engine = self._engine
        if (
            not isinstance(engine, Engine)
            or engine.replaced
            or any(
                self.stream_handlers[op] != handler for op, handler in self._native_handlers.items()
            )
        ):
            return False
        try:
            engine.take_on(messages)
        except Exception as error:
            self._fail_as_thread_did(error, engine.broken_by)
        return True

    def _handle_compute_task(self, **message: Any) -> None:
        task = message["run_spec"]
        if type(task) is not UnloadableTask:
            self.handle_stimulus(ComputeTaskEvent(**message))
            return
        known = self.state.tasks.get(message["key"])
        if known is not None and known.state in NEEDS_NO_RUN_SPEC:
            # The machine has what it needs to run the task, or has run it already.
            self.handle_stimulus(ComputeTaskEvent(**{**message, "run_spec": None}))
        else:
            self._report_unloadable(
                message["key"],
                message["run_id"],
                task.error,
                task.message,
                stimulus_id=message["stimulus_id"],
            )

    # To the scheduler

    def log_event(self, topic: str | Collection[str], msg: Any) -> None:
        """Log an event under a topic, or several, at the scheduler. May be called in any thread.

        What a task logs, or prints where that is forwarded, reaches the scheduler before the news
        of its end. A `batched_send` of the user's is called on the event loop.

        Raises TypeError if msgpack does not know what to do with ``msg``.
        """
        if not _is_dumpable(msg):
            raise TypeError(
                f"Message must be msgpack serializable. Got type(msg)={type(msg)} instead."
            )
        event = {"op": "log-event", "topic": topic, "msg": msg}
        send = self.batched_send
        ours = getattr(send, "__func__", None) is Worker.batched_send
        if not ours and threading.get_ident() != self.thread_id:
            self.loop.add_callback(send, event)
            return
        with contextlib.suppress(CommClosedError):  # closed since batched_send has looked
            send(event)

    # What the worker tells of itself

    digests = kept_in_figures("digests")
    digests_total = kept_in_figures("digests_total")
    digests_total_since_heartbeat = kept_in_figures("digests_total_since_heartbeat")
    digests_max = kept_in_figures("digests_max")

    def digest_metric(self, name: Hashable, value: float) -> None:
        """Add a value to the figures of that name."""
        self._figures.digest_metric(name, value)

    def trigger_profile(self) -> None:
        """Add the stack of every running task to the profiles."""
        profile_tasks(
            self.active_threads,
            self.profile_recent,
            self.profile_keys,
            self.low_level_profiler,
            self.digest_metric,
        )

    def get_call_stack(self, keys: Collection[Key] | None = None) -> dict[Key, list[str]]:
        """``{key: frames as text, outermost first}`` of running tasks: of ``keys``, or of all."""
        return call_stacks(self.active_threads, keys)

    async def heartbeat(self) -> None:
        """Send the worker's figures to the scheduler, and take over its clock and interval."""
        await beat(self)

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Serve the worker's pages; Prometheus finds fastworker's own figures there too."""
        super().start_http_server(*args, **kwargs)
        load_dashboard_late(self)
        prometheus.publish()

    def versions(self, packages: Iterable[str] | None = None) -> dict[str, Any]:
        """As ``distributed.Worker.versions``, with the version of fastworker."""
        return {**super().versions(packages=packages), **VERSION}

    def identity(self) -> dict[str, Any]:
        """As ``distributed.Worker.identity``, with the version of fastworker and the comm."""
        return {**super().identity(), **identity_of(self)}

    # Results

    def get_data(
        self,
        comm: Any = None,
        keys: Any = (),
        who: str | None = None,
        serializers: list[str] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Send data to a peer, or read it.

        With a ``Comm``, as ``distributed.Worker.get_data``: send it to the peer ``who``, or answer
        that the worker is busy. Without one, ``await worker.get_data(keys)`` gives
        ``{key: value}``, and raises KeyError for a key whose data is not here.
        """
        if not isinstance(comm, Comm):
            return self._read_data(keys if comm is None else comm)
        transfer: Coroutine[Any, Any, Any] = self._result_server.send(comm, keys, who, serializers)
        return transfer

    def gather_dep(
        self,
        worker: str,
        to_gather: Any,
        total_nbytes: Any = None,
        *,
        deps: Collection[Key] = (),
        stimulus_id: str | None = None,
    ) -> Coroutine[Any, Any, StateMachineEvent | None]:
        """Fetch data from a peer.

        The state machine calls it with ``to_gather``, ``total_nbytes`` and ``stimulus_id``, and
        gets back the event that says how it went.

        By hand: ``await worker.gather_dep(address, dep, deps)`` tells the state machine that
        ``address`` holds ``dep`` and ``deps``, and has it fetch them from there. Once the transfer
        has ended it returns the event that ended it, or None if no transfer began, because the
        data is here or the transfer has to queue. Raises KeyError for an unknown key, ValueError
        for a key that is to be run here or is being fetched already.
        """
        if stimulus_id is None:
            if total_nbytes is not None and not isinstance(total_nbytes, int):
                deps = total_nbytes
            return self._gather_now(worker, to_gather, deps)
        transfer: Coroutine[Any, Any, StateMachineEvent] = gather_dep(
            self, worker, to_gather, total_nbytes, stimulus_id
        )
        return transfer

    def _finalize_metrics(
        self, stim: StateMachineEvent, ledger: DelayedMetricsLedger, span_id: str | None = None
    ) -> None:
        """Meter a transfer or a run of a task that has ended."""
        if not self._fetcher.meter_if_nothing_made(stim, ledger):
            super()._finalize_metrics(stim, ledger, span_id)

    async def gather(self, who_has: dict[Key, list[str]]) -> dict[str, object]:
        """Fetch and keep data: for ``replicate``, ``rebalance`` and ``scatter``.

        As ``distributed.Worker.gather``. The answer does not go through the stream. If the data was
        here before, and the message that it was released is still under way, the scheduler reads
        that message after the answer, takes the data for gone, and never removes it. So the worker
        also says in the stream that the data is here.
        """
        answer: dict[str, object] = await super().gather(who_has)
        here = [key for key in who_has if key in self.data]
        if here:
            message = AddKeysMsg(keys=here, stimulus_id=f"gather-{time()}")
            self.batched_send(message.to_dict())
        return answer

    def _use_store(self) -> None:
        """Put a `Store` in the place of the SpillBuffer, if the memory manager has made one.

        The memory manager decides whether there is one, and with what limits. It is still empty.
        """
        buffer = self.memory_manager.data
        if type(buffer) is SpillBuffer:
            store = Store.in_place_of(buffer)
            store.on_lost = partial(result_lost, self)
            self.memory_manager.data = self.state.data = store

    def _spill_excess(self) -> None:
        """Spill what the last events have put into memory beyond its target.

        Does nothing while the calling thread holds the core's lock: it calls this again without.
        """
        data = self.data
        if type(data) is Store and data.fast.over_target and not self._holds_lock():
            data.spill_excess()

    # Tasks

    def execute(
        self, key: Key, *, stimulus_id: str | None = None
    ) -> Coroutine[Any, Any, StateMachineEvent]:
        """Run a task and return the event that ends it.

        The state machine calls it with a ``stimulus_id`` to start a task, as
        ``distributed.Worker.execute``. Without one it waits for the run of ``key`` that is under
        way, and changes nothing. For a run that has ended it returns the event as long as the
        outcome is here.

        Raises KeyError for an unknown key, ValueError for a task that has not been run here.
        """
        if stimulus_id is None:
            return self._outcome(key)
        run: Coroutine[Any, Any, StateMachineEvent] = super().execute(key, stimulus_id=stimulus_id)
        return run

    # Stimuli in, instructions out

    @fail_hard  # type: ignore[untyped-decorator]
    def handle_stimulus(self, *stims: StateMachineEvent) -> None:
        """Let the state machine handle events, and carry out what it decides."""
        try:
            self._engine.handle(*stims)
            self._spill_excess()
        except Exception as error:
            self._report_broken_state(error, [stim.key for stim in stims if hasattr(stim, "key")])
            raise

    @fail_hard  # type: ignore[untyped-decorator]
    def _follow(self) -> None:
        """Carry out what was decided under the core's lock, unless this thread holds it still."""
        try:
            self._engine.follow()
            self._spill_excess()
        except Exception as error:
            self._report_broken_state(error)
            raise

    @fail_hard  # type: ignore[untyped-decorator]
    def _fail_as_thread_did(self, error: BaseException, keys: Collection[Key] = ()) -> None:
        """End as `handle_stimulus` does after an error, which is about those tasks."""
        if isinstance(error, Exception):
            self._report_broken_state(error, keys)
        raise error

    def _report_broken_state(self, error: Exception, keys: Iterable[Key] = ()) -> None:
        report_breakdown(self, error, keys)


#: In these states a task has been given its run_spec, or has no need of one any more.
NEEDS_NO_RUN_SPEC = frozenset(
    {"constrained", "executing", "long-running", "memory", "ready", "waiting"}
)
