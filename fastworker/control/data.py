"""Verbs on data: read it, take it in, drop it, fetch it from peers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from distributed.core import ConnectionPool
from distributed.utils_comm import gather_from_workers
from distributed.worker import WORKER_ANY_RUNNING
from distributed.worker_state_machine import (
    AcquireReplicasEvent,
    AddKeysMsg,
    RefreshWhoHasEvent,
    RemoveReplicasEvent,
    RequestRefreshWhoHasMsg,
    StateMachineEvent,
)

from fastworker.control import checks
from fastworker.control.steering import Steering, lock_of, locked, new_stimulus_id, users
from fastworker.control.views import by_priority

if TYPE_CHECKING:
    from fastworker.core import TaskState

#: Keys whose data is not here and that may be fetched.
FETCHABLE = frozenset({"error", "fetch", "missing", "released"})


#: Seconds after which to try again to drop data that was in use.
REMOVE_AGAIN_AFTER = 0.5


def remove_replicas(worker: Steering, keys: Iterable[Key], stimulus_id: str) -> None:
    """Drop data that the scheduler has no use for, but not from under a task.

    The scheduler does not ask for an input of a task that it has given to this worker; of tasks
    that were added by hand it cannot know. Their inputs go when they are done.
    """
    if worker.status not in WORKER_ANY_RUNNING:
        return
    in_use: list[Key] = []
    free: list[Key] = []
    for key in keys:
        ts = worker.state.tasks.get(key)
        (in_use if ts is not None and users(ts) else free).append(key)
    if free:
        worker.handle_stimulus(RemoveReplicasEvent(keys=free, stimulus_id=stimulus_id))
    if in_use:
        worker.loop.call_later(REMOVE_AGAIN_AFTER, remove_replicas, worker, in_use, stimulus_id)


class DataVerbs(Steering):
    """A mixin of ``fastworker.Worker``."""

    if TYPE_CHECKING:
        rpc: ConnectionPool

    async def _read_data(self, keys: Any) -> dict[Key, Any]:
        """``{key: value}``; raises KeyError for a key whose data is not here."""
        keys = checks.some_keys(keys)
        self._check_held(keys)
        return {key: self.data[key] for key in keys}

    def _check_held(self, keys: Iterable[Key]) -> None:
        absent = [key for key in keys if key not in self.data]
        if absent:
            raise KeyError(f"no data of {absent} on {self.address}")

    def get_keys(self) -> list[Key]:
        """The keys whose data is here."""
        return list(self.data)

    # Not @locked: it may spill
    def update_data(
        self,
        data: Mapping[Key, Any],
        stimulus_id: str | bool | None = None,
        report: bool = False,
    ) -> dict[str, Any]:
        """Take in data that did not come from a task, as ``distributed.Worker.update_data``.

        ``scatter`` calls it.

        Parameters
        ----------
        data
            ``{key: value}``
        stimulus_id
            Names the call in logs. A bool in its place is taken for ``report``.
        report
            Whether to tell the scheduler that the data is here. The scheduler removes data of keys
            that it does not know.

        Returns
        -------
        ``{"nbytes": {key: bytes}, "status": "OK"}``

        Raises
        ------
        TypeError
            ``data`` is no mapping, or a key is no Dask key.
        ValueError
            A key is blank.
        """
        if isinstance(stimulus_id, bool):
            report, stimulus_id = stimulus_id, None
        if not isinstance(data, Mapping):
            raise TypeError(f"data must map keys to values, got {data!r:.200}")
        for key in data:
            checks.a_key(key)
        stimulus_id = stimulus_id or new_stimulus_id("update-data")
        answer: dict[str, Any] = super().update_data(data, stimulus_id)  # type: ignore[misc]
        if report:
            self._carry_out([AddKeysMsg(keys=list(data), stimulus_id=stimulus_id)])
        return answer

    @locked
    def delete_data(self, keys: Collection[Key], report: bool = True) -> dict[str, str]:
        """Drop data, and tell the scheduler unless ``report`` is False.

        Returns ``{"status": "OK"}``. Raises KeyError if data of a key is not here, ValueError if
        tasks that are yet to run here need it.
        """
        wanted = checks.some_keys(keys)
        self._check_held(wanted)
        for key in wanted:
            self._check_unused(self._known(key))
        event = RemoveReplicasEvent(keys=wanted, stimulus_id=new_stimulus_id("delete-data"))
        if report:
            self.handle_stimulus(event)
        else:
            self._drive_unreported(event)
        return {"status": "OK"}

    @locked
    def ensure_communicating(self) -> None:
        """Ask peers for the data that is needed, as far as the limits on transfers allow."""
        stimulus_id = new_stimulus_id("ensure-communicating")
        # The state machine looks for data to fetch at the end of every round of transitions.
        self._drive(lambda: self.state._transitions({}, stimulus_id=stimulus_id))

    async def _gather_now(
        self, worker: str, dep: Key | Collection[Key], deps: Collection[Key]
    ) -> StateMachineEvent | None:
        """What ``Worker.gather_dep`` does by hand."""
        self._check_usable()
        if checks.an_address(worker) == self.address:
            raise ValueError(f"{worker} is this worker itself")
        first = list(dep) if isinstance(dep, (list, set, frozenset)) else [dep]
        wanted = []
        for key in checks.some_keys([*first, *checks.some_keys(deps)]):
            ts = self._known(key)
            if ts.state in FETCHABLE:
                wanted.append(ts)
            elif ts.state != "memory":
                raise ValueError(f"{key!r} cannot be fetched: it is {ts.state} here")
        if not wanted:
            return None
        before = set(self._async_instructions)
        self.handle_stimulus(
            AcquireReplicasEvent(
                who_has={ts.key: [worker] for ts in wanted},
                nbytes={ts.key: ts.get_nbytes() for ts in wanted},
                stimulus_id=new_stimulus_id("gather-dep"),
            )
        )
        name = f"gather_dep({worker}, "
        for transfer in self._async_instructions - before:
            if transfer.get_name().startswith(name):
                return await asyncio.shield(transfer)
        return None

    @locked
    def handle_missing_dep(self, deps: Collection[Key]) -> None:
        """Ask the scheduler which workers hold these keys; fetch them once it has answered.

        Raises KeyError for an unknown key, ValueError for one whose data is here.
        """
        keys = checks.some_keys(deps)
        for key in keys:
            if self._known(key).state == "memory":
                raise ValueError(f"{key!r} is not missing: its data is here")
        if keys:
            stimulus_id = new_stimulus_id("handle-missing-dep")
            self._carry_out([RequestRefreshWhoHasMsg(keys=keys, stimulus_id=stimulus_id)])

    @locked
    def update_who_has(self, who_has: Mapping[Key, Collection[str]]) -> None:
        """Replace the known holders of these keys, ``{key: addresses}``.

        The worker fetches missing data that has a holder now. Data that was to be fetched and has
        no holder any more goes missing. Raises KeyError for an unknown key.
        """
        holders = checks.holders(who_has)
        for key in holders:
            self._known(key)
        stimulus_id = new_stimulus_id("update-who-has")
        self.handle_stimulus(RefreshWhoHasEvent(who_has=holders, stimulus_id=stimulus_id))

    def select_keys_for_gather(self, worker: str, dep: Key) -> tuple[list[Key], int]:
        """The keys that one transfer would fetch if ``worker`` were asked for ``dep`` now.

        Fetches nothing. Returns the keys, ``dep`` first and the rest by priority, and their
        total size in bytes. Raises KeyError for an unknown key, ValueError if ``worker`` is not
        known to hold it.
        """
        state = self.state
        with lock_of(state):
            ts = self._known(dep)
            if checks.an_address(worker) not in ts.who_has:
                raise ValueError(f"{worker} is not known to hold {dep!r}")
            limit = min(
                state.transfer_message_bytes_limit,
                state.transfer_incoming_bytes_limit - state.transfer_incoming_bytes,
            )
            selected: list[TaskState] = [ts]
            total: int = ts.get_nbytes()
            for other in by_priority(state.data_needed.get(worker, ())):
                if other is ts:
                    continue
                if total + other.get_nbytes() > limit:
                    break
                selected.append(other)
                total += other.get_nbytes()
        return [each.key for each in selected], total

    async def gather_from_workers(
        self, who_has: Mapping[Key, Collection[str]], pool: ConnectionPool | None = None
    ) -> tuple[dict[Key, Any], list[Key], list[Key], list[str]]:
        """Fetch data from peers and return it: neither the state machine nor the store gets it.

        Parameters
        ----------
        who_has
            ``{key: addresses of its holders}``
        pool
            Connections to use; by default the worker's own.

        Returns
        -------
        As ``distributed.utils_comm.gather_from_workers``: ``{key: value}``; the keys that no holder
        had; the keys that failed otherwise, for instance to unpickle; the addresses that did not
        answer.
        """
        holders = checks.holders(who_has)
        data, missing, failed, gone = await gather_from_workers(
            holders, rpc=self.rpc if pool is None else pool, who=self.address
        )
        return data, missing, failed, gone
