"""One episode: a cluster, graphs whose answers are known, faults, an end, and what is left."""

from __future__ import annotations

import errno
import gc
import logging
import random
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from distributed import Client, Future, wait
from distributed.scheduler import KilledWorker

from fastworker.demo.launcher import Kind, Process
from support.faults import hazards, tasks, traces
from support.faults.cluster import Cluster
from support.faults.endings import ENDINGS
from support.faults.graphs import Graph, draw_graph
from support.faults.kinds import FAULTS
from support.faults.plan import Plan

assert hazards.__name__  # imported because it registers faults

PATIENCE = 120.0
"""Seconds for anything that has to come to an end, on a busy machine."""

BROKEN_STATE = re.compile(
    r"InvalidTransition|InvalidTaskState|TransitionCounterMaxExceeded|RecommendationsConflict"
    r"|double free|corrupted|Exception ignored in|exception was never retrieved"
)
STOCK = re.compile(
    # The scheduler forgets a client twice, as its connection ends while it says goodbye
    r"Task exception was never retrieved\n.*\nTraceback.*\n(?: .*\n)*? .* in add_client\n"
    r"(?: .*\n)*KeyError: 'Client-.*\n"
    # A task asks for a client while its worker closes
    r"|Exception ignored in: <function Client.__del__ .*\nTraceback.*\n(?: .*\n)*"
    r"RuntimeError: IOLoop is closed\n"
)
"""Faults of distributed's scheduler and client, which no worker can mend."""

#: What the harness itself writes into the working directory of the processes.
OWN_FILES = ("scheduler", "worker", "tmp", "scratch", "count-", "let-go-")


class HangError(Exception):
    """Something has not come to an end."""


class WrongError(Exception):
    """A result is lost or wrong, or something is left behind."""


class Episode:
    """See the module. ``run`` raises HangError or WrongError, or what a fault's own steps raise."""

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        kind: Kind = "fastworker",
        options: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self.plan = plan
        self.directory = directory
        self.patience = patience
        self.cluster = Cluster(plan, kind, list(options), directory)
        self.client: Client
        self.cancelled = False
        """Whether the client has been restarted in this round, which cancels all its futures."""
        self.exhausted = False
        """Whether a task takes all descriptors of its worker in this round."""
        self.crashes = 0
        """Segmentation faults that were ordered."""
        self.expected: list[hazards.Expected] = []
        self.afterwards: list[Callable[[], None]] = []
        self.unwanted: list[Future] = []
        self._names = 0

    def next_name(self) -> str:
        self._names += 1
        return f"{self.plan.seed}-{self._names}"

    def expect(self, expected: hazards.Expected) -> None:
        self.expected.append(expected)

    # Time

    @contextmanager
    def within(self, what: str, patience: float = 0.0) -> Iterator[None]:
        """HangError, and the stacks of all processes in their logs, when it takes far too long."""
        seconds = patience or self.patience

        def too_long(number: int, frame: FrameType | None) -> NoReturn:
            raise HangError(f"{what}: not after {seconds:g} s")

        previous = signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        except (HangError, TimeoutError) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.cluster.dump_stacks()
            raise HangError(f"{what}: {error}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

    # The course of things

    def run(self) -> None:
        # The client's complaints; what keeps a record of them keeps tracebacks, and those futures
        logging.disable(logging.CRITICAL)
        try:
            self.play()
        finally:
            logging.disable(logging.NOTSET)

    def play(self) -> None:
        surroundings = traces.Surroundings()
        with self.cluster:
            with self.within("the client connects"):
                self.client = Client(self.cluster.scheduler.address, timeout=30)
            try:
                self.make_whole()
                for number, faults in enumerate(self.plan.rounds):
                    self.round(number, faults)
                with self.within("everything is let go", self.patience + 30):
                    self.expect_nothing_left()
                self.end()
            finally:
                self.client.close(timeout=10)
            self.check_logs()
            if left := self.until_nothing(lambda: traces.left_by_processes(self.cluster)):
                raise WrongError(f"left behind: {left}")
        self.unwanted.clear()
        if left := self.until_nothing(surroundings.new):
            raise WrongError(f"left behind in the client's process: {left}")
        if left := traces.new_files(self.directory, OWN_FILES):
            raise WrongError(f"left behind in the working directory: {left}")

    def make_whole(self) -> None:
        patience = max(self.patience, 60)  # processes that start take their time
        with self.within("all workers have joined, or ended", patience + 30):
            self.cluster.make_whole(self.client, patience)

    def round(self, number: int, faults: list[tuple[float, str]]) -> None:
        """One graph, and what happens meanwhile."""
        graph = draw_graph(
            f"{self.plan.seed}-{number}", random.Random(f"{self.plan.seed} {number}")
        )
        self.cancelled = self.exhausted = False
        futures = graph.submit(self.client)
        start = time.monotonic()
        for i, (delay, name) in enumerate(sorted(faults)):
            time.sleep(max(0.0, start + delay - time.monotonic()))
            with self.within(name):
                FAULTS[name](self, random.Random(f"{self.plan.seed} {number} {i}"))
        self.cluster.resume()
        self.make_whole()
        self.judge(graph, futures)
        for expected in self.expected:
            self.judge_one(expected.future, expected.says, expected.fits)
        self.expected.clear()
        for act in self.afterwards:
            with self.within("what follows a fault"):
                act()
        self.afterwards.clear()

    def judge(self, graph: Graph, futures: dict[int, Future]) -> None:
        """Each result is there and right, or an error that a fault explains."""
        self.await_done(list(futures.values()))
        for i, future in futures.items():
            answer = graph.nodes[i].answer
            self.judge_one(future, f"the value {answer}", partial(is_value, answer))

    def await_done(self, futures: list[Future]) -> None:
        with self.within("futures are done", self.patience + 30):
            end = time.monotonic() + self.patience
            while keys := [future.key for future in futures if not future.done()]:
                if time.monotonic() > end:
                    raise HangError(f"not done: {keys[:5]}\n{self.stories(keys[:2])}")
                with suppress(TimeoutError, CancelledError):  # they are judged one by one
                    wait(futures, timeout=1)
                self.cluster.replace_ended()  # tasks may have ended all workers there were

    def judge_one(self, future: Future, says: str, fits: Callable[[object], bool]) -> None:
        got: object
        try:
            self.await_done([future])
            with self.within(f"{future.key} is gathered"):
                # An exception that was raised here would hold this frame, and the client holds it
                got = future.exception(timeout=self.patience)
                if got is None:
                    got = future.result(timeout=self.patience)
        except HangError:
            raise
        except (Exception, CancelledError) as error:
            got = error
        if isinstance(got, BaseException) and self.excuses(got):
            return
        if not fits(got):
            raise WrongError(f"{future.key} is {got!r} instead of {says}") from (
                got if isinstance(got, BaseException) else None
            )

    def excuses(self, error: BaseException) -> bool:
        """Whether a fault explains an error of any task."""
        if isinstance(error, CancelledError):
            return self.cancelled
        if isinstance(error, KilledWorker):
            removed = self.client.run_on_scheduler(tasks.count_removed)
            return bool(removed > self.plan.allowed_failures)
        if isinstance(error, OSError):
            stack = "".join(traceback.format_tb(error.__traceback__))
            # A client of a task's own has lost its connection: that is for the task to deal with
            return self.exhausted if error.errno == errno.EMFILE else "node_by_client" in stack
        return False

    def stories(self, keys: list[str]) -> str:
        told = []
        with suppress(Exception), self.within("the scheduler's story", 15):
            told.append(self.client.run_on_scheduler(tasks.stories, keys))
        with suppress(Exception), self.within("the workers' stories", 15):
            stories = self.client.run(tasks.worker_stories, keys, on_error="return")
            told += [f"{address}: {story}" for address, story in stories.items()]
        return "\n".join(told)

    # The end

    @property
    def restarted(self) -> bool:
        return any(name == "restart" for faults in self.plan.rounds for _, name in faults)

    def until_nothing(self, look: Callable[[], list[str]]) -> list[str]:
        """What ``look`` still finds after some time, for what is on its way to go."""
        end = time.monotonic() + min(20, self.patience)
        while (found := look()) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def expect_nothing_left(self) -> None:
        def look() -> list[str]:
            gc.collect()  # tracebacks of the errors that were judged hold futures
            left = self.client.run(tasks.what_is_left)
            if self.restarted:
                # The scheduler may hear of tasks only after the restart that cancelled them
                known = set(self.client.run_on_scheduler(tasks.known_keys))
                left = {each: tasks.without(what, known) for each, what in left.items()}
            return [f"{address}: {str(what)[:500]}" for address, what in left.items() if what]

        if left := self.until_nothing(look):
            wanted = self.client.run_on_scheduler(tasks.what_is_wanted)
            raise WrongError(f"left on workers: {left}; wanted by clients: {wanted}")

    def end(self) -> None:
        chance = random.Random(f"{self.plan.seed} end")
        with self.within(self.plan.ending):
            ENDINGS[self.plan.ending](self, chance)
        self.await_end(self.cluster.launcher.processes)
        with self.within("the client closes"):
            self.client.close(timeout=10)

    def await_end(self, processes: Sequence[Process]) -> None:
        with self.within(f"processes end after {self.plan.ending}", self.patience + 30):
            end = time.monotonic() + self.patience
            while running := [each.name for each in processes if each.running]:
                if time.monotonic() > end:
                    raise HangError(f"still there: {', '.join(running)}")
                time.sleep(0.1)

    def check_logs(self) -> None:
        """No broken state machine, and no more crashes than were ordered."""
        n_crashes = 0
        for process in self.cluster.launcher.processes:
            text = process.text()
            if found := BROKEN_STATE.search(STOCK.sub("", text)):
                raise WrongError(f"{process.name} logged {found[0]!r}")
            n_crashes += len(re.findall("Fatal Python error", text))
        if n_crashes > self.crashes:
            raise WrongError(f"{n_crashes} crashes, of which {self.crashes} were ordered")


def is_value(answer: int, got: object) -> bool:
    if not isinstance(got, tasks.Value):
        return False
    got.check()
    return got.number == answer
