"""What a check has found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Parameters
    ----------
    name
        What was looked at, in a word or two.
    text
        What was found.
    level
        ``problem`` for what fails jobs; ``note`` for what costs time or may surprise.
    advice
        What to do about it; empty for ``ok``.
    """

    name: str
    text: str
    level: Level = "ok"
    advice: str = ""


def found(checks: Iterable[Callable[[], Iterator[Finding]]]) -> list[Finding]:
    """The findings of all checks. One that raises is a finding too: the others are made."""
    return [finding for check in checks for finding in _of(check)]


def _of(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:
        return [cannot_be_looked_at(getattr(check, "func", check).__name__, error)]


def cannot_be_looked_at(name: str, error: BaseException) -> Finding:
    """The finding that a check ended with an error."""
    why = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    return Finding(
        name,
        f"cannot be looked at: {why}",
        "note",
        "a server that hangs or has left does not answer; report this line if that is not so",
    )
