"""Warnings about keys under ``fastworker:`` in Dask's configuration that do not exist.

The keys of ``fastworker.yaml`` exist. A warning never has a value: it may be a secret in the wrong
place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

import dask.config

from fastworker.config.defaults import COMM, DEFAULTS, displaced
from fastworker.config.logs import get_logger

logger = get_logger("config")

SECTION = "fastworker"
#: From 0 to 1: how alike two names must be for the warning to suggest one for the other.
ALIKE = 0.6

#: Keys that this process has warned of. A key is added in one operation; two threads that find
#: the same one at a time may both warn.
_warned: set[str] = set()


def complaints() -> list[str]:
    """A sentence about each key that does not exist."""
    return [complaint for _, complaint in _all_complaints()]


def warn_of_unknown_keys() -> None:
    """Log a warning for each key that does not exist, once in a process."""
    for key, complaint in _all_complaints():
        if key not in _warned:
            _warned.add(key)
            logger.warning("%s", complaint)


def _all_complaints() -> Iterator[tuple[str, str]]:
    """Each key that does not exist, and the warning about it."""
    yield from _complaints(dask.config.get(SECTION, None), DEFAULTS[SECTION], SECTION)
    yield from ((key, _no_section(key, value)) for key, value in list(displaced.items()))


def _complaints(given: Any, known: Mapping[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """Each key below a section that does not exist, and the warning about it."""
    if given is None or (section == COMM and isinstance(given, str)):
        return
    if not isinstance(given, Mapping):
        yield section, _no_section(section, given)
        return
    for name, value in list(given.items()):
        plain = str(name).replace("_", "-")
        key = f"{section}.{plain}"
        if plain not in known:
            yield key, f"There is no {section}.{name} in Dask's configuration{_instead(plain)}"
        elif isinstance(known[plain], Mapping):
            yield from _complaints(value, known[plain], key)


def _no_section(section: str, value: Any) -> str:
    return (
        f"{section} in Dask's configuration is ignored: it has to be a section with keys of its "
        f"own, and is of type {type(value).__name__}"
    )


def _instead(name: str) -> str:
    """The key that may have been meant, as the end of a sentence."""
    keys = list(_keys(DEFAULTS[SECTION], SECTION))
    likeness, nearest = max((_likeness(name, key.rpartition(".")[2]), key) for key in keys)
    if likeness < ALIKE:
        return "; it is ignored"
    return f"; did you mean {nearest}?"


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def _keys(section: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, value in section.items():
        yield f"{path}.{name}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{path}.{name}")
