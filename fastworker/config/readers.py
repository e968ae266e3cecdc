"""Readers of values: each returns a value in its unit, or raises a ValueError that says what it
must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask.utils import parse_bytes, parse_timedelta


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number, at least {least}")
        return value

    return read


def share(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError("a number above 0 and at most 1")
    return float(value)


def without_number(value: Any) -> bool:
    """Whether it is text without a digit, such as that of an empty environment variable.

    Dask takes "" for one byte.
    """
    return isinstance(value, str) and not any(map(str.isdigit, value))


def seconds(value: Any) -> float:
    try:
        number = -1.0 if without_number(value) else float(parse_timedelta(value))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise ValueError("a time above 0, such as '5 ms'")
    return number


def nbytes(value: Any) -> int:
    try:
        number = -1 if without_number(value) else int(parse_bytes(value))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        number = -1
    if isinstance(value, bool) or number < 0:
        raise ValueError("a size of at least 0, such as '64 KiB'")
    return number


def optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)
