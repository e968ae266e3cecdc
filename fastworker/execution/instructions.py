"""Carrying out what the state machine has decided, on the event loop."""

from __future__ import annotations

from collections.abc import Iterable

import distributed
from distributed.worker_state_machine import (
    Execute,
    GatherDep,
    Instruction,
    RetryBusyWorkerLater,
    SendMessageToScheduler,
)

#: How many keys of a transfer to spell out in the name of its asyncio task, and in how many
#: characters, when the worker validates itself.
NAMED_KEYS = 27
NAMED_KEYS_CHARS = 80


def carry_out(worker: distributed.Worker, instructions: Iterable[Instruction]) -> None:
    """Carry out the state machine's instructions, in order.

    Messages go to the scheduler's stream. The rest become asyncio tasks, each of which ends with an
    event that goes back to the state machine.
    """
    for instruction in instructions:
        if isinstance(instruction, SendMessageToScheduler):
            worker.batched_send(instruction.to_dict())
        elif isinstance(instruction, Execute):
            worker._start_async_instruction(
                f"execute({instruction.key!r})",
                worker.execute,
                instruction.key,
                span_id=worker.state.tasks[instruction.key].span_id,
                stimulus_id=instruction.stimulus_id,
            )
        elif isinstance(instruction, GatherDep):
            names = _name_keys(instruction) if worker.debug else "..."
            worker._start_async_instruction(
                f"gather_dep({instruction.worker}, {{{names}}})",
                worker.gather_dep,
                instruction.worker,
                instruction.to_gather,
                total_nbytes=instruction.total_nbytes,
                stimulus_id=instruction.stimulus_id,
            )
        elif isinstance(instruction, RetryBusyWorkerLater):
            worker._start_async_instruction(
                f"retry_busy_worker_later({instruction.worker})",
                worker.retry_busy_worker_later,
                instruction.worker,
            )
        else:
            raise TypeError(f"not an instruction of the state machine: {instruction!r}")


def _name_keys(gather: GatherDep) -> str:
    names = ", ".join(str(key) for key in list(gather.to_gather)[:NAMED_KEYS])
    return names if len(names) <= NAMED_KEYS_CHARS else names[: NAMED_KEYS_CHARS - 3] + "..."
