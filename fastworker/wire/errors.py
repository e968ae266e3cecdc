"""The error for bytes that are not a message."""

from __future__ import annotations


class WireError(ValueError):
    """Bytes that cannot be decoded, and where the fault is.

    Attributes
    ----------
    problem
        What is wrong, without the place.
    message
        Index of the message in its batch; None before the first one was begun.
    frame
        Index of the frame; None where the split into frames is at fault.
    offset
        Bytes into the frame; None where the fault is not at one place.
    """

    def __init__(
        self,
        problem: str,
        *,
        message: int | None = None,
        frame: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(problem, message, frame, offset)
        self.problem = problem
        self.message = message
        self.frame = frame
        self.offset = offset

    def __str__(self) -> str:
        places = (("message", self.message), ("frame", self.frame), ("byte", self.offset))
        where = ", ".join(f"{name} {index}" for name, index in places if index is not None)
        return f"{where}: {self.problem}" if where else self.problem

    def __reduce__(self) -> tuple[object, ...]:
        return _again, self.args


def _again(problem: str, message: int | None, frame: int | None, offset: int | None) -> WireError:
    return WireError(problem, message=message, frame=frame, offset=offset)
