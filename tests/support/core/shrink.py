"""Shortening a story that diverges, and writing it down as source code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import distributed.worker_state_machine as wsm

from support.core.compare import Divergence, field_names
from support.core.events import RUN_SPEC
from support.core.stories import (
    SECRET,
    Duel,
    Poke,
    Recommend,
    Script,
    Setup,
    Step,
    fresh_event,
    quiet,
)


def replay(
    candidate: type, setup: Setup, script: Script, *, possible_only: bool = False
) -> tuple[Divergence | None, Script]:
    """Play a script from the start, comparing everything.

    Parameters
    ----------
    possible_only: leave out answers to what the machine has not asked for, which is what
        they become when the steps before them are taken out of a story

    Returns
    -------
    The divergence, if there is one, and the steps that were played up to it.
    """
    played: Script = []
    try:
        with quiet():
            duel = Duel(candidate, setup)
            for step in script:
                if possible_only:
                    step = possible(step, duel.oracle.state)
                    if not step:
                        continue
                played.append(step)
                duel.play(step)
            duel.finish()
    except Divergence as divergence:
        return divergence, played
    except Exception:
        pass  # both machines raised the same, or a poke found nothing to do
    return None, played


def possible(step: Step, state: Any) -> Step:
    """The step without what makes no sense in this state of the machine."""
    if isinstance(step, Poke):
        on_task = step.what in ("metadata", "started")
        return () if on_task and step.args[0] not in state.tasks else step
    if isinstance(step, Recommend):
        return step if step.key in state.tasks else ()
    running = {ts.key for ts in state.all_running_tasks}
    workers = set(state.in_flight_workers)
    out = []
    for event in step:
        if isinstance(event, wsm.ExecuteDoneEvent | wsm.SecedeEvent):
            if event.key not in running:
                continue
            if isinstance(event, wsm.ExecuteDoneEvent):
                running.remove(event.key)
        elif isinstance(event, wsm.GatherDepDoneEvent):
            if event.worker not in workers:
                continue
            workers.remove(event.worker)
        out.append(event)
    return tuple(out)


def kind(divergence: Divergence) -> str:
    return divergence.where.split(maxsplit=1)[0].rstrip(":")


def smaller_events(event: wsm.StateMachineEvent) -> Iterator[wsm.StateMachineEvent]:
    """The same event with one entry less in one of its collections."""
    for name in ("keys", "data", "nbytes", "resource_restrictions", "annotations"):
        value = getattr(event, name, None)
        if not isinstance(value, dict | list | tuple | set):
            continue
        for item in value:
            out = fresh_event(event)
            if isinstance(value, dict):
                del getattr(out, name)[item]
                if name == "nbytes":
                    out.who_has.pop(item, None)  # type: ignore[attr-defined]
            else:
                setattr(out, name, type(value)(x for x in value if x != item))
            yield out


class Shrinker:
    """Makes a diverging story shorter for as long as it diverges in the same kind of way."""

    def __init__(
        self, candidate: type, setup: Setup, script: Script, out_of_time: Callable[[], bool]
    ):
        self.candidate = candidate
        self.setup = setup
        self.script = script
        self.out_of_time = out_of_time
        self.possible_only = False
        first, _ = replay(candidate, setup, script)
        self.kind = first and kind(first)

    def accept(self, script: Script, setup: Setup | None = None) -> bool:
        """Whether this story diverges as well; it is the story from then on."""
        setup = setup or self.setup
        found, played = replay(self.candidate, setup, script, possible_only=self.possible_only)
        if found is None or kind(found) != self.kind:
            return False
        self.script, self.setup = played, setup
        return True

    def run(self) -> None:
        if self.kind is None:
            return
        self.possible_only = True
        if not self.accept(self.script):
            self.possible_only = False
            self.accept(self.script)
        self.drop_steps()
        for name, value in vars(Setup()).items():
            plainer = replace(self.setup, **{name: value})
            if plainer != self.setup:
                self.accept(self.script, plainer)
        self.split()
        before = None
        while before != len(self.script) and not self.out_of_time():
            before = len(self.script)
            self.drop_steps()
        self.drop_entries()
        self.drop_steps()

    def split(self) -> None:
        """One event a step, where that makes no difference."""
        i = 0
        while i < len(self.script) and not self.out_of_time():
            step = self.script[i]
            if isinstance(step, tuple) and len(step) > 1:
                singles: Script = [(event,) for event in step]
                self.accept([*self.script[:i], *singles, *self.script[i + 1 :]])
            i += 1

    def drop_steps(self) -> None:
        size = max(1, len(self.script) // 2)
        while size and not self.out_of_time():
            start = 0
            while start < len(self.script) and not self.out_of_time():
                if not self.accept(self.script[:start] + self.script[start + size :]):
                    start += size
            size //= 2

    def drop_entries(self) -> None:
        i = 0
        while i < len(self.script) and not self.out_of_time():
            step = self.script[i]
            i += 1
            if not isinstance(step, tuple):
                continue
            for j, event in enumerate(step):
                for smaller in smaller_events(event):
                    shorter = (*step[:j], smaller, *step[j + 1 :])
                    if self.accept([*self.script[: i - 1], shorter, *self.script[i:]]):
                        i -= 1  # the same step again: it may have more to lose
                        break
                else:
                    continue
                break


def shrink(
    candidate: type, setup: Setup, script: Script, *, out_of_time: Callable[[], bool]
) -> tuple[Setup, Script]:
    """A shorter script, and a plainer setup, that still diverge."""
    shrinker = Shrinker(candidate, setup, script, out_of_time)
    shrinker.run()
    return shrinker.setup, shrinker.script


def written(value: Any) -> str:
    """`value` as source code, as far as values of stories go."""
    if value is RUN_SPEC:
        return "RUN_SPEC"
    if isinstance(value, wsm.Serialize):
        return f"Serialize({value.data!r})"
    if isinstance(value, type):
        return "type(SECRET)" if value is type(SECRET) else value.__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))},)"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {written(v)}" for k, v in value.items()) + "}"
    return repr(value)


def written_event(event: wsm.StateMachineEvent) -> str:
    cls = type(event)
    args = ", ".join(f"{name}={written(getattr(event, name))}" for name in field_names(cls))
    return f"{cls.__name__}({args})"


def source(setup: Setup, script: Script) -> str:
    """A script as the body of a named story."""
    lines = [f"duel = Duel(WorkerState, {setup!r})"]
    for step in script:
        if isinstance(step, Poke):
            lines.append(f"duel.poke({step!r})")
        elif isinstance(step, Recommend):
            lines.append(f"duel.recommend({step.key!r}, {written(step.finish)})")
        else:
            lines.append(f"duel({', '.join(map(written_event, step))})")
    lines.append("duel.finish()")
    return "\n".join(lines)
