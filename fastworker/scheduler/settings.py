"""Settings of the low-latency lane, read from Dask's configuration with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask.config

from fastworker.config import readers
from fastworker.config.defaults import DEFAULTS

LOW_LATENCY = "fastworker.low-latency"

_READERS: dict[str, Callable[[Any], Any]] = {
    "streams": readers.switch,
    "client": readers.switch,
    "burst": readers.whole(1),
    "busy": readers.share,
    "queue_depth": readers.whole(0),
    "queue_work": readers.seconds,
    "queue_memory": readers.share,
    "tiny_duration": readers.seconds,
    "tiny_nbytes": readers.nbytes,
    "proven": readers.whole(1),
}


@dataclass(frozen=True)
class LowLatencySettings:
    """``fastworker.low-latency`` as numbers: times in seconds, sizes in bytes."""

    streams: bool
    client: bool
    burst: int
    busy: float
    queue_depth: int
    queue_work: float
    queue_memory: float
    tiny_duration: float
    tiny_nbytes: int
    proven: int

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None) -> LowLatencySettings:
        """What is configured, except for ``overrides`` by field name.

        Raises ValueError for a bad value, naming its key, and TypeError for an unknown field.
        """
        given = checked(overrides or {})
        configured = {
            name: read_one(name, dask.config.get(key_of(name), default))
            for name, default in _low_latency_defaults().items()
            if name not in given
        }
        return cls(**configured, **given)


def _low_latency_defaults() -> dict[str, Any]:
    # Passed on to Dask each time: a user may empty its configuration, defaults included.
    section = DEFAULTS["fastworker"]["low-latency"]
    return {name: section[name.replace("_", "-")] for name in _READERS}


def key_of(name: str) -> str:
    """The configuration key of a field of LowLatencySettings."""
    return f"{LOW_LATENCY}.{name.replace('_', '-')}"


def read_one(name: str, value: Any) -> Any:
    """A field in its unit; ValueError, naming the key, for a bad value."""
    try:
        return _READERS[name](value)
    except ValueError as error:
        raise ValueError(f"{key_of(name)} must be {error}; got {value!r}") from None


def checked(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` in their units; TypeError for an unknown name, ValueError for a bad value."""
    for name in overrides:
        if name not in _READERS:
            known = ", ".join(_READERS)
            raise TypeError(f"there is no low-latency setting {name!r}; there are {known}")
    return {name: read_one(name, value) for name, value in overrides.items()}
