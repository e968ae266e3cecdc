"""Bytes to values and back: msgpack, pickles, frames, results."""

from __future__ import annotations

from fastworker.wire.errors import WireError
from fastworker.wire.frames import Frames

__all__ = ["Frames", "WireError"]
