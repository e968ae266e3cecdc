"""The core, the store, the outbox and the pool, each alone among threads, with no worker around."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import connect, listen
from distributed.comm.core import CommClosedError
from distributed.threadpoolexecutor import rejoin, secede
from distributed.worker_state_machine import (
    CancelComputeEvent,
    ExecuteFailureEvent,
    PauseEvent,
    RescheduleEvent,
    SecedeEvent,
    StealRequestEvent,
    UnpauseEvent,
)

from fastworker.core import WorkerState
from fastworker.core.messages import compute_task_of, free_keys_of, success_of
from fastworker.core.records import Run, to_instructions
from fastworker.data.store import Store
from fastworker.execution.pool import PullThreadPoolExecutor
from fastworker.link.outbox import Outbox
from support.core import events
from support.stress.duration import SECONDS, SEED, takes
from support.stress.values import Awkward, alive, bad_weather, give_way, litter

pytestmark = pytest.mark.slow

N_THREADS = 8


def let_loose(seconds: float, *jobs: Callable[[random.Random], None], n: int = N_THREADS) -> None:
    """Do each job again and again in `n` threads. Raises what they raise."""
    errors: list[str] = []
    end = time.monotonic() + seconds

    def work(job: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(seed)
        try:
            while time.monotonic() < end and not errors:
                job(chance)
        except BaseException:
            errors.append(traceback.format_exc())

    print(f"\nseed {SEED}: {seconds:.0f} s")
    threads = [
        threading.Thread(target=work, args=(job, 100 * SEED + i), daemon=True)
        for i, job in enumerate(jobs * n)
    ]
    with bad_weather():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert not errors, errors[0]


class Machine:
    """A state that any thread drives as an engine would: it runs the tasks it is told to run."""

    def __init__(self) -> None:
        self.state = WorkerState(nthreads=4, address="tcp://1.1.1.1:1", validate=True)
        self.to_run: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.known: dict[Any, None] = {}
        self.numbers = itertools.count()
        self.finished: Counter[str] = Counter()

    def carry_out(self, records: list[Any]) -> None:
        for record in records:
            if type(record) is Run:
                self.to_run.put(record.task)
            else:
                for instruction in to_instructions([record]):
                    name = getattr(instruction, "op", None) or type(instruction).__name__
                    self.finished[name] += 1

    def handle(self, event: Any) -> None:
        with self.state.lock:
            instructions = self.state.handle_stimulus(event)
        for instruction in instructions:
            if type(instruction).__name__ == "Execute":
                self.to_run.put(self.state.tasks[instruction.key])

    def act(self, chance: random.Random) -> None:
        what = chance.random()
        if what < 0.35:
            self.add(chance)
        elif what < 0.7:
            self.run_one(chance)
        elif what < 0.9:
            self.let_go(chance)
        elif what < 0.93:
            self.handle(PauseEvent(stimulus_id="pause"))
            give_way()
            self.handle(UnpauseEvent(stimulus_id="unpause"))
        else:
            litter(1)

    def add(self, chance: random.Random) -> None:
        i = next(self.numbers)
        key = f"task-{i}" if i % 2 else ("task", i)
        # What a task depends on is in memory, or else it would have to be fetched
        with self.state.lock:
            dep = chance.choice(list(self.known)) if self.known and i % 3 == 0 else None
            ts = self.state.tasks.get(dep)
            if ts is None or ts.state != "memory":
                dep = None
            event = events.compute(
                key,
                {dep: ["tcp://1.1.1.1:1"]} if dep else {},
                priority=(i % 5, i),
                run_id=i,
                run_spec=Awkward(i),
                stimulus_id=f"compute-{i}",
            )
            records = self.state.handle_events((compute_task_of(event),))
        self.known[key] = None
        self.carry_out(records)

    def run_one(self, chance: random.Random) -> None:
        try:
            ts = self.to_run.get_nowait()
        except queue.Empty:
            return
        key, how = ts.key, chance.random()
        give_way()
        if how < 0.1:
            self.handle(SecedeEvent(key=key, compute_duration=0.1, stimulus_id="secede"))
        if how < 0.7:
            value = Awkward(ts.run_id)
            done = events.success(key, value, run_id=ts.run_id, nbytes=64)
            self.carry_out(self.state.handle_events((success_of(done),)))
        elif how < 0.85:
            self.handle(RescheduleEvent(key=key, stimulus_id="again"))
        else:
            try:
                raise ValueError(Awkward(ts.run_id))
            except ValueError as error:
                event = ExecuteFailureEvent.from_exception(
                    error, key=key, run_id=ts.run_id, stimulus_id="failed"
                )
            self.handle(event)

    def let_go(self, chance: random.Random) -> None:
        try:
            key = chance.choice(list(self.known))
        except IndexError:
            return
        how = chance.random()
        if how < 0.2:
            self.handle(StealRequestEvent(key=key, stimulus_id="steal"))
        elif how < 0.3:
            with self.state.lock:
                ts = self.state.tasks.get(key)
                if ts is None or not ts.dependents:
                    self.handle(CancelComputeEvent(key=key, stimulus_id="cancel"))
        else:
            with self.state.lock:
                ts = self.state.tasks.get(key)
                if ts is None or not ts.dependents:
                    self.known.pop(key, None)
                    self.carry_out(self.state.handle_events((free_keys_of(events.free(key)),)))

    def look(self, chance: random.Random) -> None:
        look = chance.choice([
            lambda: self.state.story(*list(self.known)[:2]),
            lambda: list(self.state.stimulus_log),
            lambda: self.state._to_dict(exclude=("log", "stimulus_log")),
            lambda: self.state.validate_state(),
            lambda: dict(self.state.task_counter.current_count()),
        ])  # fmt: skip
        look()
        time.sleep(0.01)


@takes(0.1)
def test_core() -> None:
    machine = Machine()
    before = set(alive)
    let_loose(0.1 * SECONDS, *[machine.act] * 7, machine.look, n=1)
    assert not machine.state.lock.held
    chance = random.Random(0)
    while machine.state.tasks or not machine.to_run.empty():
        machine.handle(events.free(*machine.state.tasks))
        machine.run_one(chance)
    machine.state.validate_state()
    assert machine.state.executed_count and machine.finished["task-finished"]
    assert not machine.state.data and not machine.state.nbytes
    machine.state.log.clear()
    machine.state.stimulus_log.clear()
    wait_for(lambda: set(alive) <= before)


@takes(0.05)
def test_store(tmp_path: Path) -> None:
    """Values that let others in while they are weighed, pickled, compared and let go."""
    before = set(alive)
    store = Store(str(tmp_path), 5_000)
    keys: list[Any] = [f"key-{i}" for i in range(20)] + [("key", i) for i in range(20)]

    def act(chance: random.Random) -> None:
        i = chance.randrange(len(keys))
        key, what = keys[i], chance.random()
        if what < 0.4:
            store[key] = Awkward(i, chance.choice([0, 500, 2_000, 10_000]))
        elif what < 0.6:
            value = store.get(key)
            assert value is None or value == Awkward(i)
        elif what < 0.8:
            with suppress(KeyError):
                del store[key]
        elif what < 0.9:
            value = store.fast.try_take(key)
            assert value is None or value == Awkward(i)
        elif what < 0.95:
            store.evict()
        else:
            assert set(store) <= set(keys)
            assert all(0 <= nbytes <= 11_000 for nbytes in store.fast.weights.values())

    let_loose(0.05 * SECONDS, act)
    store.spill_excess()
    assert store.fast.total_weight == sum(store.fast.weights.values()) <= 5_000
    assert len(store) == len(list(store)) == len(store.fast) + len(store.slow)
    for key in list(store):
        assert store[key] == Awkward(keys.index(key))
        del store[key]
    assert not store and not store.fast.total_weight and not store.spilled_total.disk
    wait_for(lambda: set(alive) <= before)


@takes(0.05)
def test_outbox() -> None:
    """Every message of every thread arrives once, and those of one thread in its order."""
    got: Counter[int] = Counter()
    sent: Counter[int] = Counter()
    out_of_turn: list[Any] = []

    async def serve(comm: Any) -> None:
        with suppress(CommClosedError):
            while True:
                for message in await comm.read():
                    if message["i"] != got[message["thread"]]:
                        out_of_turn.append(message)
                    got[message["thread"]] += 1

    async def play() -> None:
        async with await listen("tcp://127.0.0.1:0", serve) as listener:
            outbox = Outbox(interval="2ms")
            outbox.start(await connect(listener.contact_address))

            def act(chance: random.Random) -> None:
                me = threading.get_ident()
                outbox.send({"op": "x", "thread": me, "i": sent[me], "part": Awkward.__name__})
                sent[me] += 1
                if chance.random() < 0.1:
                    outbox.push()
                if chance.random() < 0.01:
                    litter(1)
                    assert outbox.metrics["dropped"] == 0
                # A writer that gets further and further ahead keeps the reader busy with one batch
                # for so long that the kernel gives the connection up
                while outbox.metrics["waiting_messages"] > 10_000:
                    time.sleep(0.001)

            await asyncio.to_thread(let_loose, 0.05 * SECONDS, act)
            await outbox.close(timeout=60)
            assert outbox.metrics["waiting_messages"] == 0
            end = time.monotonic() + 60
            while got != sent and time.monotonic() < end:
                await asyncio.sleep(0.01)

    asyncio.run(play())
    assert got == sent
    assert sent.total() and not out_of_turn


@takes(0.05)
def test_pool() -> None:
    """Threads come, go, leave and are back; there are never more in the pool than it may have."""
    pool = PullThreadPoolExecutor(4, thread_name_prefix="stress-pool")
    done = itertools.count()
    most = 0

    def leave_and_return() -> None:
        secede()
        give_way()
        rejoin()
        next(done)

    def act(chance: random.Random) -> None:
        nonlocal most
        pool.submit(chance.choice([leave_and_return, give_way]))
        most = max(most, len(list(pool._threads)))
        while pool._work_queue.qsize() > 100:
            time.sleep(0.001)

    let_loose(0.05 * SECONDS, act)
    last = [pool.submit(give_way) for _ in range(100)]
    for future in last:
        future.result(60)
    # One more for the moment in which one takes the place of another
    assert most <= 4 + 1
    wait_for(lambda: not pool._rejoin_list and pool._work_queue.empty())
    pool.shutdown(wait=True, timeout=60)
    wait_for(lambda: not any(t.name.startswith("stress-pool") for t in threading.enumerate()))
    assert next(done) > 0


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        gc.collect()
        assert time.monotonic() < end
        time.sleep(0.01)
