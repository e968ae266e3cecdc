"""What is left of a worker without a scheduler: the state machine, results, peers, and the parts.

A server of distributed's that runs in the test's event loop. It has no stream to a scheduler and no
threads: what it says to the scheduler is in ``sent``, and no task runs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

from distributed import Worker as StockWorker
from distributed.core import Server, Status
from distributed.worker_state_machine import BaseWorker, StateMachineEvent, UpdateDataEvent

from fastworker.control.hand_back import HandBack
from fastworker.control.steering import Steering
from fastworker.core import WorkerState
from fastworker.execution.instructions import carry_out
from fastworker.transfer.fetching import Fetcher
from fastworker.transfer.serving import ResultServer


class BareWorker(Steering, Server, BaseWorker):
    """Use it as ``async with BareWorker() as worker``; it then listens at ``worker.address``.

    ``hand_back_after`` is in seconds; None: never. ``state_class`` is fastworker's ``WorkerState``
    or distributed's.
    """

    batched_stream = None
    scheduler_delay = 0.0
    transfer_outgoing_bytes = 0
    transfer_outgoing_bytes_total = 0
    transfer_outgoing_count = 0
    transfer_outgoing_count_limit = 10
    transfer_outgoing_count_total = 0

    _carry_out = carry_out
    _get_cause = StockWorker._get_cause
    _update_metrics_received_data = StockWorker._update_metrics_received_data

    def __init__(
        self, hand_back_after: float | None = None, state_class: type = WorkerState
    ) -> None:
        self.data: dict[Any, Any] = {}
        self.by_hand: set[Any] = set()
        self.sent: list[dict[str, Any]] = []
        self.transfer_incoming_log: deque[Any] = deque()
        self.transfer_outgoing_log: deque[Any] = deque()
        self.bandwidth = 1e8
        self.bandwidth_types = self.bandwidth_workers = defaultdict(lambda: (0, 0))
        self.fetcher = Fetcher(self)
        self.result_server = ResultServer(self)
        self.hand_back = HandBack(self, hand_back_after)
        BaseWorker.__init__(self, state_class(data=self.data, validate=True))
        Server.__init__(self, {"get_data": self.result_server.send}, needs_workdir=False)

    async def start_unsafe(self) -> BareWorker:
        await super().start_unsafe()
        await self.listen("tcp://127.0.0.1:0")
        self.state.address = self.address
        return self

    async def close(self) -> None:
        await BaseWorker.close(self)
        await Server.close(self)
        self.status = Status.closed
        self.state.validate_state()

    async def gather_dep(
        self, worker: str, to_gather: Any, total_nbytes: int, *, stimulus_id: str
    ) -> StateMachineEvent:
        return await self.fetcher.fetch(worker, to_gather, total_nbytes, stimulus_id)

    async def execute(self, key: Any, *, stimulus_id: str) -> StateMachineEvent:
        raise NotImplementedError("no task runs here")

    async def retry_busy_worker_later(self, worker: str) -> StateMachineEvent:
        raise NotImplementedError("no peer is asked again here")

    def batched_send(self, msg: dict[str, Any]) -> None:
        self.sent.append(msg)

    def _finalize_metrics(self, stim: Any, ledger: Any, span_id: str | None = None) -> None:
        if not self.fetcher.meter_if_nothing_made(stim, ledger):
            super()._finalize_metrics(stim, ledger, span_id)

    def _follow(self) -> None:
        """What was decided has been carried out at once: there is no engine that keeps it."""

    def put(self, **results: Any) -> None:
        """Keep results, as if a client had scattered them."""
        self.handle_stimulus(UpdateDataEvent(data=results, stimulus_id="put"))
