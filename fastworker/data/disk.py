"""The disk below the store."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, Literal

from dask.typing import Key
from distributed.metrics import context_meter
from distributed.spill import AnyKeyFile, MaxSpillExceeded, PickleError, Slow, SpilledSize
from distributed.utils import nbytes

from fastworker.config.logs import get_logger
from fastworker.data.sizes import nbytes_of

logger = get_logger("data")


class SpillFileLost(OSError):
    """The file of a spilled value is gone, cut short or cannot be read: the value is lost.

    Errors of unpickling a complete file are not of this kind: they come from the value's own code,
    and would come again if the value were computed again.
    """

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__(f"the spill file of {key!r} cannot be read: {reason}")
        self.key = key


class Files(AnyKeyFile):
    """``distributed.spill.AnyKeyFile`` that removes a file that could not be written completely.

    zict leaves it, which keeps a full disk full. A directory that is gone is made again: cleaners
    of temporary files remove empty ones.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self._thread = threading.local()

    def _safe_key(self, key: Key) -> str:
        name: str = super()._safe_key(key)
        self._thread.name = name
        return name

    def __setitem__(self, key: Key, value: Any) -> None:
        self._thread.name = None
        try:
            try:
                super().__setitem__(key, value)
            except FileNotFoundError:
                os.makedirs(self.directory, exist_ok=True)
                super().__setitem__(key, value)
        except BaseException:
            if self._thread.name is not None:
                with suppress(OSError):
                    os.remove(os.path.join(self.directory, self._thread.name))
            raise


class Disk(Slow):
    """``distributed.spill.Slow`` whose sums are right when several threads write and remove.

    A file may also be gone or unreadable: cleaners of temporary directories remove files that have
    not been used for days, and disks fail.

    A thread takes room before it writes a file, and gives it back if writing fails, so `max_weight`
    holds for all writers together. `lock` guards `total_weight` and `weight_by_key`; no thread
    holds it while it pickles or writes. There is at most one writer a key: see `Store`.
    """

    def __init__(self, spill_directory: str, max_weight: int | Literal[False] = False) -> None:
        super().__init__(spill_directory, max_weight)
        self.d = Files(spill_directory)

    def __setitem__(self, key: Key, value: object) -> None:
        """Write a new key.

        Raises
        ------
        distributed.spill.PickleError
            Pickling failed; the error is its cause.
        distributed.spill.MaxSpillExceeded
            All files together would be larger than `max_weight` bytes.
        OSError
            The file cannot be written.
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

    def __getitem__(self, key: Key) -> object:
        """Read a value back.

        Raises
        ------
        KeyError
            The key is not on disk.
        SpillFileLost
            The file is gone, incomplete or unreadable.
        Exception
            Any error of unpickling the value.
        """
        try:
            with context_meter.meter("disk-read", "seconds"):
                frames = self.d[key]
        except OSError as error:
            raise SpillFileLost(key, str(error)) from error
        with self.lock:
            size = self.weight_by_key.get(key)
        if size is None:  # removed meanwhile
            raise KeyError(key)
        if len(frames) != size.disk:
            raise SpillFileLost(key, f"{len(frames)} bytes long, {size.disk} were written")
        context_meter.digest_metric("disk-read", 1, "count")
        context_meter.digest_metric("disk-read", len(frames), "bytes")
        return self.load(frames)

    def __delitem__(self, key: Key) -> None:
        """Remove the file of a key.

        The key is gone in any case. A file that cannot be removed is left, and logged: it is not
        read again, and goes with the directory when the worker ends. Raises KeyError.
        """
        if key not in self.d:
            raise KeyError(key)
        try:
            del self.d[key]
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("The spill file of %r cannot be removed: %s", key, error)
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
