from types import CodeType
from typing import Any, TypeVar

T = TypeVar("T")

class FrameCopy:
    f_code: CodeType
    f_lineno: int | None
    f_lasti: int
    f_globals: dict[str, Any]

def copy_stacks(threads: dict[int, T]) -> list[tuple[int, T, list[FrameCopy]]]: ...
