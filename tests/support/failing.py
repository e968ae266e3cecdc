"""What fails when it is pickled, unpickled or called."""

from __future__ import annotations

from typing import Any, NoReturn


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Refuses:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ("no such thing on this worker",)


def _refuse(text: str) -> NoReturn:
    raise ModuleNotFoundError(text)


def fail(x: Any) -> NoReturn:
    raise ValueError("it went wrong", x)
