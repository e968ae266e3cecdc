"""Verbs on tasks: add one, release one, run one, report one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dask._task_spec import GraphNode
from dask.typing import Key
from distributed.core import error_message
from distributed.metrics import time
from distributed.worker_state_machine import (
    RUN_ID_SENTINEL,
    AddKeysMsg,
    ComputeTaskEvent,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    StateMachineEvent,
    TaskErredMsg,
    UpdateDataEvent,
)

from fastworker.control import checks, task_parts
from fastworker.control.steering import (
    BUSY,
    PROCESSING,
    Steering,
    lock_of,
    locked,
    mark_by_hand,
    new_stimulus_id,
    users,
    wanted_here,
)

if TYPE_CHECKING:
    from fastworker.core import TaskState

logger = logging.getLogger("distributed.worker")


def resolve(futures: list[asyncio.Future[StateMachineEvent]], event: StateMachineEvent) -> None:
    """Hand an event to the futures that have not been cancelled."""
    for future in futures:
        if not future.done():
            future.set_result(event)


class TaskVerbs(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        scheduler_delay: float

        #: {key: futures of the event that ends its run in a thread}. Guarded by the core's lock.
        _awaited: dict[Key, list[asyncio.Future[StateMachineEvent]]]

        async def close(self, *args: Any, **kwargs: Any) -> str | None: ...

    # Not @locked as a whole: it unpickles
    def add_task(
        self,
        key: Key,
        priority: Any,
        who_has: Mapping[Key, Any] | None = None,
        func: Any = None,
        args: Any = None,
        kwargs: Any = None,
        *,
        nbytes: Mapping[Key, int] | None = None,
        run_id: int | None = None,
        resource_restrictions: Mapping[str, float] | None = None,
        actor: bool = False,
        annotations: Mapping[str, Any] | None = None,
        stimulus_id: str | None = None,
    ) -> None:
        """Add a task, as if the scheduler had sent it.

        If its result is here already, the worker reports that again, at once. If it waits or runs
        already, nothing happens. The scheduler removes results of tasks that it does not know.

        If a part cannot be unpickled, the worker reports to the scheduler that the task erred, with
        the exception, and keeps nothing of the task.

        Parameters
        ----------
        key
            Name of the task and of its result.
        priority
            A number or several; the smallest goes first.
        who_has
            ``{key: addresses}``: the inputs, and the workers that hold them. For an input in
            memory here, the addresses may be empty.
        func, args, kwargs
            What to call; each as it is or pickled. Arguments that equal a key of ``who_has`` stand
            for its data. ``func`` may also be a whole ``dask`` ``Task``, without ``args`` and
            ``kwargs``.
        nbytes
            Sizes of the inputs in bytes; without it they are estimated.
        run_id
            The scheduler's number for this run; it ignores results of any other run.
        resource_restrictions, actor, annotations
            As in distributed's ``ComputeTaskEvent``. The task belongs to no span.

        Raises
        ------
        ValueError
            The key or the priority is blank; an input has no holder; a resource is unknown here, or
            there is not enough of it.
        TypeError
            An argument is of the wrong type.
        """
        self._check_usable()
        checks.a_key(key)
        priority = checks.a_priority(priority)
        who_has = checks.holders(who_has)
        if run_id is None:
            known = self.state.tasks.get(key)
            run_id = 0 if known is None or known.run_id == RUN_ID_SENTINEL else known.run_id
        checks.a_run_id(run_id)
        restrictions = self._check_resources(resource_restrictions or {})
        if key in who_has:
            raise ValueError(f"task {key!r} cannot be an input of itself")
        if self._reports_again(key):
            return
        stimulus_id = stimulus_id or new_stimulus_id("add-task")

        try:
            func, args, kwargs = (task_parts.unpickled(part) for part in (func, args, kwargs))
        except Exception as error:
            message = dict(error_message(error))
            self._report_unloadable(key, run_id, error, message, stimulus_id=stimulus_id)
            return
        if isinstance(func, GraphNode):
            if args is not None or kwargs is not None:
                raise TypeError("a whole task brings its own args and kwargs")
            run_spec = func
        else:
            run_spec = task_parts.build_task(
                key, *task_parts.check_task(func, args, kwargs), who_has
            )
        if unheld := run_spec.dependencies - who_has.keys():
            raise ValueError(f"task {key!r} needs {sorted(unheld, key=str)}; not in who_has")
        event = ComputeTaskEvent(
            key=key,
            run_id=run_id,
            who_has={},
            nbytes={},
            priority=priority,
            run_spec=run_spec,
            resource_restrictions=restrictions,
            actor=actor,
            annotations=dict(annotations or {}),
            span_id=None,
            stimulus_id=stimulus_id,
        )
        self._add_loaded(event, who_has, nbytes or {})

    @locked
    def _add_loaded(
        self, event: ComputeTaskEvent, who_has: Mapping[Key, list[str]], nbytes: Mapping[Key, int]
    ) -> None:
        """Add a task whose parts are loaded, with the inputs that it lacks."""
        if self._reports_again(event.key):  # its result has come meanwhile
            return
        event.who_has = {
            dep: self._sources(event.key, dep, workers) for dep, workers in who_has.items()
        }
        event.nbytes = {dep: self._size(dep, nbytes) for dep in who_has}
        self.handle_stimulus(event)
        mark_by_hand(self.state.tasks.get(event.key))

    @locked
    def _reports_again(self, key: Key) -> bool:
        """Report to the scheduler again that a task finished; False if its result is not here."""
        ts = self.state.tasks.get(key)
        if ts is None or ts.state != "memory":
            return False
        self.send_task_state_to_scheduler(key)
        return True

    def _check_resources(self, restrictions: Mapping[str, float]) -> dict[str, float]:
        total = self.state.total_resources
        for name, amount in restrictions.items():
            if name not in total:
                raise ValueError(f"no resource {name!r} on {self.address}; there are {total}")
            if not 0 <= amount <= total[name]:
                raise ValueError(f"{amount} of {name!r} asked for, of {total[name]} in all")
        return dict(restrictions)

    def _sources(self, key: Key, dep: Key, workers: list[str]) -> list[str]:
        """The holders of an input, for the state machine: never an empty list."""
        ts = self.state.tasks.get(dep)
        if ts is not None and ts.state == "memory":
            return workers or [self.address]
        if ts is not None and wanted_here(ts):
            raise ValueError(f"input {dep!r} of {key!r} is {ts.state} here and not yet in memory")
        peers = [worker for worker in workers if worker != self.address]
        if not peers:
            raise ValueError(f"input {dep!r} of {key!r} is not here, and who_has names no holder")
        return peers

    def _size(self, dep: Key, nbytes: Mapping[Key, int]) -> int:
        if dep in nbytes:
            return nbytes[dep]
        ts = self.state.tasks.get(dep)
        return ts.get_nbytes() if ts is not None else task_parts.default_nbytes()

    def _report_unloadable(
        self,
        key: Key,
        run_id: int,
        error: Exception,
        message: Mapping[str, Any],
        *,
        stimulus_id: str,
    ) -> None:
        """Report to the scheduler that a task erred because it could not be unpickled."""
        logger.error("Could not deserialize task %r: %r", key, error)
        self.state.log.append((key, "undeserializable", stimulus_id, time()))
        self._carry_out(
            [
                TaskErredMsg(
                    key=key,
                    run_id=run_id,
                    exception=message["exception"],
                    traceback=message["traceback"],
                    exception_text=message["exception_text"],
                    traceback_text=message["traceback_text"],
                    thread=None,
                    startstops=[],
                    stimulus_id=stimulus_id,
                )
            ],
        )

    @locked
    def release_key(
        self, key: Key, cause: Key | None = None, reason: str | None = None, report: bool = True
    ) -> None:
        """Release a key: drop its result, do not run it, or ignore the result of a run.

        The worker tells the scheduler that a result is gone, and asks it to have an unfinished task
        run again; without ``report`` it does neither.

        Parameters
        ----------
        cause, reason
            The key that this is done for, and why; for the worker's log.

        Raises
        ------
        KeyError
            The worker does not know the key.
        ValueError
            Tasks that are yet to run here need it; see ``release_dep``.
        """
        ts = self._known(key)
        self._check_unused(ts)
        stimulus_id = new_stimulus_id(reason or "release-key")
        self.state.log.append((key, "release-key", cause, reason, stimulus_id, time()))
        self._release([ts], report, stimulus_id)

    @locked
    def release_dep(self, dep: Key, report: bool = True) -> None:
        """Release an input, and the tasks that are yet to run here and need it.

        Raises KeyError for an unknown key.
        """
        ts = self._known(dep)
        needing = users(ts)
        for user in needing:
            self._check_unused(user, but_for=needing)
        self._release([*needing, ts], report, new_stimulus_id("release-dep"))

    @locked
    def ensure_computing(self) -> None:
        """Start as many ready tasks as there are threads and resources for."""
        stimulus_id = new_stimulus_id("ensure-computing")

        def decide() -> list[Any]:
            recommendations, instructions = self.state._ensure_computing()
            return [
                *instructions,
                *self.state._transitions(recommendations, stimulus_id=stimulus_id),
            ]

        self._drive(decide)

    async def _outcome(self, key: Key) -> StateMachineEvent:
        """What ``Worker.execute`` does by hand."""
        ts = self._known(key)
        name = f"execute({key!r})"
        for run in self._async_instructions:
            if run.get_name() == name:
                return await asyncio.shield(run)
        outcome: asyncio.Future[StateMachineEvent] = asyncio.get_running_loop().create_future()
        if self._await_end(key, outcome):
            return await outcome
        times = [each for each in ts.startstops if each["action"] == "compute"]
        if times and ts.state == "memory":
            return ExecuteSuccessEvent(
                key=key,
                run_id=ts.run_id,
                value=self.state.actors[key] if key in self.state.actors else self.data[key],
                start=times[-1]["start"],
                stop=times[-1]["stop"],
                nbytes=ts.get_nbytes(),
                type=ts.type,
                stimulus_id=new_stimulus_id("execute"),
            )
        if times and ts.state == "error":
            return ExecuteFailureEvent(
                key=key,
                run_id=ts.run_id,
                start=times[-1]["start"],
                stop=times[-1]["stop"],
                exception=ts.exception,
                traceback=ts.traceback,
                exception_text=ts.exception_text,
                traceback_text=ts.traceback_text,
                stimulus_id=new_stimulus_id("execute"),
            )
        raise ValueError(f"task {key!r} is in state {ts.state!r}, it does not run")

    def _await_end(self, key: Key, outcome: asyncio.Future[StateMachineEvent]) -> bool:
        """Resolve ``outcome`` with the event that will end the present run of a task in a thread.

        Returns False, and does nothing, if the task does not run.
        """
        with lock_of(self.state):
            ts = self.state.tasks.get(key)
            if ts not in self.state.executing and ts not in self.state.long_running:
                return False
            self._awaited.setdefault(key, []).append(outcome)
            self._engine.finished = self._run_ended
            return True

    def _run_ended(self, event: Any) -> None:
        """Resolve what awaits this event, in the event loop. The caller holds the core's lock."""
        outcomes = self._awaited.pop(event.key, None)
        if not self._awaited:
            self._engine.finished = None
        if outcomes is not None:
            self.loop.add_callback(resolve, outcomes, event)

    @locked
    def put_key_in_memory(self, key: Key, value: Any, report: bool = True) -> None:
        """Store ``value`` as the result of ``key``. Does nothing if its result is here already.

        Tasks that waited for it go on. If this worker has the key already, it tells the scheduler
        that the task finished, if it was to run here, or else that the data is here. Without
        ``report`` it tells neither.

        Raises ValueError if the key is being run or fetched: its result is about to come.
        """
        known = self.state.tasks.get(checks.a_key(key))
        if known is not None:
            if known.state == "memory":
                return
            if known.state in BUSY:
                raise ValueError(f"task {key!r} is {known.state}; its result is about to come")
        ran_here = known is not None and known.state in PROCESSING
        stimulus_id = new_stimulus_id("put-key-in-memory")
        self.handle_stimulus(UpdateDataEvent(data={key: value}, stimulus_id=stimulus_id))
        # If the value could not be stored, the state machine has reported that itself.
        if report and known is not None and known.state == "memory":
            self._report_result(known, ran_here, stimulus_id)

    @locked
    def send_task_state_to_scheduler(self, key: Key) -> None:
        """Report to the scheduler again that a task finished or erred.

        Raises KeyError for an unknown key, ValueError for a task that has not ended.
        """
        ts = self._known(key)
        stimulus_id = new_stimulus_id("send-task-state")
        if ts.state == "memory":
            self._report_result(ts, ts.run_id != RUN_ID_SENTINEL, stimulus_id)
        elif ts.state == "error":
            self._carry_out(
                [
                    TaskErredMsg.from_task(
                        ts,
                        run_id=ts.run_id,
                        stimulus_id=stimulus_id,
                        thread=self.state.threads.get(key),
                    )
                ],
            )
        else:
            raise ValueError(f"task {key!r} is in state {ts.state!r}, it has nothing to report")

    def _report_result(self, ts: TaskState, ran_here: bool, stimulus_id: str) -> None:
        if not ran_here:
            self._carry_out([AddKeysMsg(keys=[ts.key], stimulus_id=stimulus_id)])
            return
        # The state machine reports a result that it is asked to compute and already has.
        self.handle_stimulus(
            ComputeTaskEvent(
                key=ts.key,
                run_id=ts.run_id,
                who_has={},
                nbytes={},
                priority=ts.priority,
                run_spec=None,
                resource_restrictions={},
                actor=False,
                annotations={},
                span_id=ts.span_id,
                stimulus_id=stimulus_id,
            )
        )

    async def terminate(self, report: bool = True) -> str | None:
        """Close the worker, and its nanny. Without ``report``, drop unsent messages.

        Returns "OK", or None if the worker was closing already.
        """
        return await self.close(reason="worker-terminate", report=report)

    @staticmethod
    def deserialize_task(
        function: Any = None, args: Any = None, kwargs: Any = None, task: Any = None
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """See ``fastworker.control.task_parts.deserialize_task``."""
        return task_parts.deserialize_task(function, args, kwargs, task)

    def apply_function(
        self, function: Callable[..., Any], args: Any = (), kwargs: Any = None
    ) -> dict[str, Any]:
        """Call a function in this thread and return the outcome, with the scheduler's time.

        See ``fastworker.control.task_parts.apply_function``.
        """
        return task_parts.apply_function(function, args, kwargs, time_delay=self.scheduler_delay)
