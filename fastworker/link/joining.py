"""Joining another scheduler than the one that a worker was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.core import coerce_to_address

if TYPE_CHECKING:
    import distributed


def use_scheduler(worker: distributed.Worker, address: str, protocol: str | None) -> None:
    """Have a worker that has not started join the scheduler at this address.

    ``protocol`` is that of the worker's own address, where its user has chosen one.
    """
    address = coerce_to_address(address)
    worker._protocol = protocol or address.partition("://")[0]
    worker.scheduler = worker.rpc(address)
    worker.execution_state["scheduler"] = worker.scheduler.address
