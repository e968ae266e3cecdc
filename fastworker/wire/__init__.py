"""Bytes to messages and back: what the scheduler's stream is made of."""

from __future__ import annotations

from fastworker.wire.decode import decode
from fastworker.wire.errors import WireError
from fastworker.wire.frames import Frames
from fastworker.wire.messages import ComputeTask, FreeKeys
from fastworker.wire.unloadable import UnloadableTask

__all__ = ["ComputeTask", "Frames", "FreeKeys", "UnloadableTask", "WireError", "decode"]
