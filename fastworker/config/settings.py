"""Settings of the comm and the worker, read from Dask's configuration with clear errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.config

from fastworker.config import readers
from fastworker.config.defaults import COMM, DEFAULTS

WORKER = "fastworker.worker"
COMMS = ("native", "tornado")


def _comm(value: Any) -> str:
    if value not in COMMS:
        raise ValueError(" or ".join(COMMS))
    name: str = value
    return name


_COMM_READERS: dict[str, Callable[[Any], Any]] = {
    "max_frames": readers.whole(1),
    "max_message_bytes": readers.optional(readers.nbytes),
    "stall_timeout": readers.optional(readers.seconds),
    "write_buffer": readers.nbytes,
    "spare_memory": readers.optional(readers.nbytes),
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
    "end-timeout": readers.optional(readers.seconds),
    "faulthandler": readers.switch,
    "hand-back-after": readers.optional(readers.seconds),
}


def worker_setting(name: str) -> Any:
    """``fastworker.worker.<name>``, times in seconds. Raises ValueError, naming the key."""
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

    Raises TypeError for a value that is no number, ValueError for a fraction or a negative number.
    """
    whole = value.is_integer() if isinstance(value, float) else hasattr(value, "__index__")
    if not whole:
        error = ValueError if isinstance(value, float) else TypeError
        raise error(f"nthreads must be a whole number, got {value!r}")
    number = int(value)
    if number < 0:
        raise ValueError(f"nthreads must not be negative, got {value!r}")
    return number


def check_worker_settings() -> None:
    """Raises ValueError, naming the key, for a bad value under ``fastworker.worker``."""
    for name in _WORKER_READERS:
        worker_setting(name)
