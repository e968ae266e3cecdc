"""How many bytes the core keeps for a task whose result is in memory.

Counted with tracemalloc over 10,000 tasks: all that is still there once the events are gone, on
both sides alike. Not counted are the key, the value and the run_spec themselves, which belong to
the caller. Counted are the entries of ``tasks`` and ``data``, the priority, the times, and the
state's bounded logs (1,000 entries each by default, so little for each task).
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from dask.utils import key_split

from machines import ADDRESS, OURS, STOCK, Machine, compute, done, fresh_keys, run_spec
from versus import Record

N = 10_000


def bytes_per_task(machine: Machine, chain: bool, n: int = N) -> float:
    """Bytes kept for each of n tasks; with `chain` each depends on the one before."""
    keys = fresh_keys(n)
    for key in keys:
        key_split(key)  # its cache is bounded, the process's, and may be full or empty
    specs = [run_spec(key) for key in keys]
    values = [object() for _ in keys]
    state = machine.state()
    last: str | None = None
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i, key in enumerate(keys):
            if chain and last is not None:
                event = compute(key, i, specs[i], {last: (ADDRESS,)}, 28)
            else:
                event = compute(key, i, specs[i])
            state.handle_stimulus(event)
            state.handle_stimulus(done(key, i, values[i]))
            last = key
        del event
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check_held(state, n)
    return (after - before) / n


def check_held(state: Any, n: int) -> None:
    assert len(state.tasks) == len(state.data) == state.executed_count == n
    assert all(ts.state == "memory" for ts in state.tasks.values())


@pytest.mark.parametrize("shape", ["independent", "chain"])
def test_task_held(record: Record, shape: str) -> None:
    chain = shape == "chain"
    for machine in (STOCK, OURS):
        bytes_per_task(machine, chain, 100)  # what is made once is made now
    record(
        f"memory/{shape}",
        stock=bytes_per_task(STOCK, chain),
        ours=bytes_per_task(OURS, chain),
        unit="bytes",
        at_most=None if chain else 600,
    )
