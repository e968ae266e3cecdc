"""Results that many ask for at a time, serialized once."""

from __future__ import annotations

from collections.abc import Mapping

from dask.typing import Key
from distributed.protocol import Serialize

from fastworker.wire.parcels import Shared

#: What was serialized is kept for those who ask next, for so many seconds.
SHARE_SECONDS = 1.0
#: Smaller results than this, in bytes, are serialized again: that takes less than to look.
SHARE_FROM = 16 << 10
#: How many bytes of pickles to keep at most. Buffers are not counted: they are those of the result.
SHARE_NBYTES = 64 << 20


class Sharing:
    """Results that were serialized a moment ago. Used by the event loop's thread only."""

    def __init__(self) -> None:
        self._shared: dict[Key, Shared] = {}
        self._nbytes = 0

    def mark(
        self, results: Mapping[Key, object], nbytes: Mapping[Key, int]
    ) -> dict[Key, Serialize]:
        """The results as they go into a message; ``nbytes`` are their sizes."""
        return {
            key: Serialize(value) if nbytes[key] < SHARE_FROM else self._marked(key, value)
            for key, value in results.items()
        }

    def _marked(self, key: Key, value: object) -> Shared:
        shared = self._shared.get(key)
        return shared if shared is not None and shared.data is value else Shared(value)

    def keep(self, marked: Mapping[Key, Serialize]) -> dict[Key, int]:
        """Keep what of a message had to be serialized, until `forget` is called with the answer."""
        kept = {}
        for key, shared in marked.items():
            if type(shared) is not Shared or shared.parts is None or key in self._shared:
                continue
            nbytes = copied(shared)
            if self._nbytes + nbytes <= SHARE_NBYTES:
                self._shared[key] = shared
                self._nbytes += nbytes
                kept[key] = nbytes
        return kept

    def forget(self, kept: Mapping[Key, int]) -> None:
        for key, nbytes in kept.items():
            del self._shared[key]
            self._nbytes -= nbytes


def copied(shared: Shared) -> int:
    """Bytes that there would not be if the result had not been serialized."""
    assert shared.parts is not None
    _, (_, frames) = shared.parts
    owners = [frame.obj if isinstance(frame, memoryview) else frame for frame in frames]
    return sum(len(owner) for owner in owners if isinstance(owner, bytes))
