"""Checks the size that a compressed frame claims before memory is allocated for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple


class Claim(NamedTuple):
    """How a compression format states the size of the data without compression."""

    read: Callable[[memoryview], int]
    """The number of bytes that a frame claims; negative if it does not say."""
    expansion: int
    """How many bytes one byte of the format can stand for at most."""


def _lz4(frame: memoryview) -> int:
    return int.from_bytes(frame[:4], "little")


def _snappy(frame: memoryview) -> int:
    size = 0
    for i, byte in enumerate(frame[:5]):
        size |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            break
    return size


#: zlib states no size, and allocates memory only as it reads.
CLAIMS = {"lz4": Claim(_lz4, 255), "snappy": Claim(_snappy, 64)}

with suppress(ImportError):
    import zstandard

    CLAIMS["zstd"] = Claim(zstandard.frame_content_size, 1 << 17)


def check_claims(names: Iterable[object], frames: Iterable[object]) -> None:
    """Check each frame's claim. Raises ValueError if a frame cannot be as large as it says.

    Parameters
    ----------
    names
        The compression of each frame.
    frames
        The frames, bytes-like.
    """
    for name, frame in zip(names, frames, strict=False):
        claim = CLAIMS.get(name) if isinstance(name, str) else None
        if claim is None:
            continue
        data = memoryview(frame).cast("B")  # type: ignore[arg-type]
        size = claim.read(data)
        if size > claim.expansion * data.nbytes:
            raise ValueError(f"{data.nbytes} bytes of {name} cannot be {size}")
