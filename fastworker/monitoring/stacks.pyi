from types import CodeType
from typing import Any, TypeVar

_T = TypeVar("_T")

class FrameCopy:
    f_code: CodeType
    f_lineno: int | None
    f_lasti: int
    f_globals: dict[str, Any]

def copy_stacks(threads: dict[int, _T]) -> list[tuple[int, _T, list[FrameCopy]]]: ...
