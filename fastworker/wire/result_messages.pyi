from collections.abc import Mapping, Sequence
from typing import Any

from distributed.protocol.serialize import Serialize

class NeedsOffload(Exception): ...
class Unserializable(Exception): ...

class Shared(Serialize):
    begun: bool
    parts: tuple[Any, Any] | None
    def __init__(self, data: object) -> None: ...

class Packer: ...
class Unpacker: ...

def pack(
    message: Any,
    context: Mapping[str, Any],
    shard: int,
    serializers: Sequence[str] | None = None,
    on_error: str = "message",
    light: bool = True,
) -> list[Any] | None: ...
def unpack(frames: Sequence[Any], light: bool = True) -> tuple[Any] | None: ...
