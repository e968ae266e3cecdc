"""fastworker's part of Dask's configuration: the defaults, and reading it with clear errors.

The keys, their units and their defaults stand in ``fastworker.yaml`` beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta

LOW_LATENCY = "fastworker.low-latency"
COMM = "fastworker.comm"
WORKER = "fastworker.worker"
COMMS = ("native", "tornado")

DEFAULTS: dict[str, Any]
(DEFAULTS,) = dask.config.collect_yaml([str(Path(__file__).with_name("fastworker.yaml"))])

#: What the user had put where a section of ours belongs, by the section's key. Dask drops it for
#: the sake of the section's defaults when it learns of them.
displaced: dict[str, Any] = {}


def _add_defaults() -> None:
    given = dask.config.get("fastworker", None)
    if given is not None and not isinstance(given, Mapping):
        displaced["fastworker"] = given
    for name, section in DEFAULTS["fastworker"].items():
        value = dask.config.get(f"fastworker.{name}", None)
        if isinstance(section, Mapping) and value is not None and not isinstance(value, Mapping):
            displaced[f"fastworker.{name}"] = value
    dask.config.update_defaults(DEFAULTS)
    if isinstance(displaced.get(COMM), str):
        # The one that is right as it is, see `comm_choice`
        dask.config.set({COMM: displaced.pop(COMM)})


_add_defaults()


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number, at least {least}")
        return value

    return read


def _share(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1")
    return float(value)


def _without_number(value: Any) -> bool:
    """Whether it is text without a digit, such as that of an empty environment variable.

    Dask takes "" for one byte.
    """
    return isinstance(value, str) and not any(map(str.isdigit, value))


def _seconds(value: Any) -> float:
    try:
        seconds = -1.0 if _without_number(value) else float(parse_timedelta(value))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        seconds = -1.0
    if isinstance(value, bool) or not 0 < seconds < float("inf"):
        raise ValueError("a time above 0, such as '5 ms'")
    return seconds


def _nbytes(value: Any) -> int:
    try:
        nbytes = -1 if _without_number(value) else int(parse_bytes(value))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        nbytes = -1
    if isinstance(value, bool) or nbytes < 0:
        raise ValueError("a size of at least 0, such as '64 KiB'")
    return nbytes


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _comm(value: Any) -> str:
    if value not in COMMS:
        raise ValueError(" or ".join(COMMS))
    name: str = value
    return name


_READERS: dict[str, Callable[[Any], Any]] = {
    "streams": _switch,
    "client": _switch,
    "burst": _whole(1),
    "busy": _share,
    "queue_depth": _whole(0),
    "queue_work": _seconds,
    "queue_memory": _share,
    "tiny_duration": _seconds,
    "tiny_nbytes": _nbytes,
    "proven": _whole(1),
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
    # Passed on to Dask each time: there are those who empty its configuration, defaults included.
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


_COMM_READERS: dict[str, Callable[[Any], Any]] = {
    "max_frames": _whole(1),
    "max_message_bytes": _optional(_nbytes),
    "stall_timeout": _optional(_seconds),
    "write_buffer": _nbytes,
    "spare_memory": _optional(_nbytes),
}


@dataclass(frozen=True)
class CommSettings:
    """``fastworker.comm`` as numbers: times in seconds, sizes in bytes; None for no limit."""

    max_frames: int
    max_message_bytes: int | None
    stall_timeout: float | None
    write_buffer: int
    spare_memory: int | None

    @classmethod
    def load(cls) -> CommSettings:
        """What is configured. Raises ValueError for a bad value, naming its key."""
        section = DEFAULTS["fastworker"]["comm"]
        return cls(
            **{
                name: _read_comm(name.replace("_", "-"), read, section[name.replace("_", "-")])
                for name, read in _COMM_READERS.items()
            }
        )


_WORKER_READERS: dict[str, Callable[[Any], Any]] = {
    "end-timeout": _optional(_seconds),
    "faulthandler": _switch,
    "hand-back-after": _optional(_seconds),
}


def worker_setting(name: str) -> Any:
    """``fastworker.worker.<name>``, times in seconds; ValueError, naming the key, for a bad one."""
    value = dask.config.get(f"{WORKER}.{name}", DEFAULTS["fastworker"]["worker"][name])
    try:
        return _WORKER_READERS[name](value)
    except ValueError as error:
        raise ValueError(f"{WORKER}.{name} must be {error}; got {value!r}") from None


def comm_choice() -> str:
    """Which comm is configured, ``native`` or ``tornado``.

    ``fastworker.comm`` itself may be one of these words instead of a section. Raises ValueError
    for any other.
    """
    section = dask.config.get(COMM, None)
    if isinstance(section, str):
        if section not in COMMS:
            raise ValueError(f"{COMM} must be {' or '.join(COMMS)}; got {section!r}")
        return section
    default = DEFAULTS["fastworker"]["comm"]["transport"]
    choice: str = _read_comm("transport", _comm, default)
    return choice


def _read_comm(key: str, read: Callable[[Any], Any], default: Any) -> Any:
    value = dask.config.get(f"{COMM}.{key}", default)
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{COMM}.{key} must be {error}; got {value!r}") from None


def number_of_threads(value: Any) -> int:
    """``nthreads`` of a worker as an int.

    Raises TypeError or ValueError, which name it, for what is no whole number or negative.
    """
    whole = value.is_integer() if isinstance(value, float) else hasattr(value, "__index__")
    if not whole:
        error = ValueError if isinstance(value, float) else TypeError
        raise error(f"nthreads must be a whole number, got {value!r}")
    number = int(value)
    if number < 0:
        raise ValueError(f"nthreads must not be negative, got {value!r}")
    return number
