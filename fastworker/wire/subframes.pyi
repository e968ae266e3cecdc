import logging
from collections.abc import Callable
from typing import Any

from fastworker.wire.unpack import Unpacker

logger: logging.Logger
loads: Callable[..., Any]

class PickledHeader(Unpacker): ...
class MessageUnpacker(Unpacker): ...
