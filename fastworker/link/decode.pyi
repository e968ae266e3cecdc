import logging
from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

from fastworker.wire.frames import Frames
from fastworker.wire.unpack import Unpacker

logger: logging.Logger

class SchedulerDecoder(Unpacker): ...

def decode(frames: Frames | Iterable[Buffer]) -> list[Any]: ...
