"""The disk below the store."""

from __future__ import annotations

from dask.typing import Key
from distributed.metrics import context_meter
from distributed.spill import MaxSpillExceeded, PickleError, Slow, SpilledSize
from distributed.utils import nbytes

from fastworker.data.sizes import nbytes_of


class Disk(Slow):
    """``distributed.spill.Slow`` whose sums are right when several threads write and remove.

    Room is taken before a file is written and given back if that fails, so `max_weight` holds for
    all writers together. `total_weight` and `weight_by_key` are guarded by `lock`, which nobody
    holds while pickling or writing. There is at most one writer a key: see `Store`.
    """

    def __setitem__(self, key: Key, value: object) -> None:
        """Write a new key.

        Raises
        ------
        distributed.spill.PickleError
            With what pickling raised as its cause.
        distributed.spill.MaxSpillExceeded
            It would be more than `max_weight` bytes on disk.
        OSError
        """
        try:
            frames = self.dump(value)
        except Exception as error:
            raise PickleError(key) from error
        size = SpilledSize(nbytes_of(value), sum(map(nbytes, frames)))
        self._take_room(key, size)
        try:
            with context_meter.meter("disk-write", "seconds"):
                self.d[key] = frames
        except BaseException:
            self._give_room_back(key)
            raise
        context_meter.digest_metric("disk-write", 1, "count")
        context_meter.digest_metric("disk-write", size.disk, "bytes")

    def __delitem__(self, key: Key) -> None:
        """Remove the file of a key. The key is gone even if that raises OSError."""
        if key not in self.d:
            raise KeyError(key)
        try:
            del self.d[key]
        finally:
            self._give_room_back(key)

    def _take_room(self, key: Key, size: SpilledSize) -> None:
        with self.lock:
            if self.max_weight is not False and (
                self.total_weight.disk + size.disk > self.max_weight
            ):
                raise MaxSpillExceeded(key)
            assert key not in self.weight_by_key, key
            self.weight_by_key[key] = size
            self.total_weight += size

    def _give_room_back(self, key: Key) -> None:
        with self.lock:
            self.total_weight -= self.weight_by_key.pop(key)
