"""``Worker.data``: results in memory and on disk."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, cast

import zict
from dask.typing import Key
from distributed.metrics import context_meter
from distributed.spill import MaxSpillExceeded, PickleError, SpillBuffer

from fastworker.config.logs import get_logger
from fastworker.data.disk import Disk, SpillFileLost
from fastworker.data.entries import Entry
from fastworker.data.lru import ResultLRU
from fastworker.data.sizes import nbytes_of

# The same logger as SpillBuffer, so that its rate limits hold for both
logger = logging.getLogger("distributed.spill")
own_logger = get_logger("data")  # for what distributed has no line for


class Load:
    """A value that one thread reads back from disk, for all threads that ask for it meanwhile.

    The store's lock guards `cancelled`, `found` and `value`. They are final once `done` is set.
    """

    __slots__ = ("cancelled", "done", "found", "thread", "value")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        #: The key was deleted or replaced meanwhile
        self.cancelled = False
        self.found = False
        self.value: object = None


class Store(SpillBuffer):
    """``distributed.spill.SpillBuffer`` with almost no cost until a value has to be spilled.

    Its `fast` is a `ResultLRU`: compiled code puts values into it and takes them from it without a
    call into Python. If that leaves `fast.over_target` set, the caller has to call `spill_excess`.

    Any number of threads may use it. A thread waits for another to pickle or read a value only if
    it asks for that value. Intended differences from ``SpillBuffer``:

    - Reading a value back from disk does not raise if another value, which has to make room for it,
      cannot be spilled. The failure is logged.
    - Nor does it raise AssertionError if another value cannot be spilled after one that went to
      disk at once.
    - A value that is heavier than the target and does not pickle sends no other value to disk.
    - `evict` returns -1 if there is nothing to evict, and does not raise KeyError.
    - A failure to pickle is logged again for a new value of the same key.

    Parameters
    ----------
    spill_directory: str
        The directory for spilled values.
    target: int
        How many bytes to hold in memory.
    max_spill: int or False
        The most bytes on disk; False for no limit.

    Attributes
    ----------
    on_lost: callable or None
        The reading thread calls it with each `SpillFileLost`, before it raises that.
    """

    # What guards what:
    # - `fast`: itself, see lru.pxd.
    # - `slow` and below: zict's own locks, and Disk's for its sums. That is enough, as no two
    #   threads write or remove the file of one key: a key that is being written is `busy` in
    #   `fast` until the file is complete or removed again; other files are removed under `lock`,
    #   and their keys are busy meanwhile. A file may be removed while another thread reads it; that
    #   thread finds its `Load` cancelled.
    # - `_loads`: `lock`. Nothing is pickled, read or written under it.
    # - `_metrics`: `_metrics_lock`.

    fast: ResultLRU
    slow: Any
    _loads: dict[Key, Load]

    def __init__(
        self, spill_directory: str, target: int, max_spill: int | Literal[False] = False
    ) -> None:
        self._metrics_lock = threading.Lock()
        super().__init__(spill_directory, target, max_spill)
        self._loads = {}
        self.on_lost: Callable[[SpillFileLost], object] | None = None
        self.slow = zict.Cache(Disk(spill_directory, max_spill), zict.WeakValueMapping())
        self.fast = ResultLRU(
            target,
            weight=weight,
            on_evict=[self.fast_to_slow],
            on_cancel_evict=[self._cancel_evict],
        )

    @classmethod
    def in_place_of(cls, buffer: SpillBuffer) -> Store:
        """A store with the settings of an empty ``SpillBuffer``.

        Raises ValueError if it holds a value.
        """
        if buffer:
            raise ValueError(f"{buffer} is in use already")
        slow = buffer._slow_uncached
        return cls(slow.d.directory, buffer.n, slow.max_weight)

    # --------------------------------------------------------------------------------- spilling

    def spill_excess(self, room: int = 0) -> None:
        """Spill values, least recently used first, until `room` more bytes fit below the target.

        Values that other threads are spilling count as spilled. Stops at the first value that
        cannot be spilled (it does not pickle, the disk is full, or `max_spill` is reached): that is
        logged, and the value stays in memory. Never raises. Any thread may call it, with no lock
        held.
        """
        self.fast.over_target = False
        if self.fast.exceeds_target(room):
            with self._capture_metrics():
                while self.fast.exceeds_target(room) and self._spill_oldest() >= 0:
                    pass

    def evict(self) -> int:
        """Spill the value that has not been used for longest, even if below target.

        Returns its size in bytes, 0 if it was deleted or replaced meanwhile, or -1 if there is none
        or it could not be spilled, which is logged. Never raises.
        """
        with self._capture_metrics():
            return self._spill_oldest()

    def _spill_oldest(self) -> int:
        try:
            evicted = self.fast.evict_oldest()
        except Exception as error:
            self._log_failure(error)
            return -1
        return -1 if evicted is None else evicted[2]

    def _log_failure(self, error: Exception) -> None:
        """Log why a value stays in memory."""
        if isinstance(error, MaxSpillExceeded):
            logger.warning("Spill file on disk reached capacity; keeping data in memory")
        elif not isinstance(error, PickleError):
            logger.error("Spill to disk failed; keeping data in memory", exc_info=error)
        elif error.key not in self.logged_pickle_errors:
            logger.error("Failed to pickle %r", error.key, exc_info=error)
            with self.lock:  # the value must not be deleted in between
                if self.fast.mark_stuck(error.key):
                    self.logged_pickle_errors.add(error.key)

    def _spill_at_once(self, key: Key, entry: Entry) -> bool:
        """Spill a value that is heavier than the target alone; False if it stays in memory."""
        try:
            self.fast.move_out(entry)
        except PickleError as error:
            assert error.key == key, (error.key, key)
            self.fast.take_if_held(entry)
            raise
        except Exception as error:
            self._log_failure(error)
            # Spill all other values instead, as far as possible
            try:
                while len(self.fast) > 1 and entry.held and self.fast.evict_oldest(but=entry):
                    pass
            except Exception:
                own_logger.debug("Spilling what is older than %r failed too", key, exc_info=True)
            return False
        return True

    # ---------------------------------------------------------------------------------- mapping

    def __setitem__(self, key: Key, value: object) -> None:
        """Hold a value; on disk if it alone is heavier than the target.

        In that case it raises any error of pickling the value, and forgets the key. Other failures
        to spill are logged, and the values stay in memory.
        """
        nbytes = nbytes_of(value)
        entry, former, leaves = self._replace(key, value, nbytes, nbytes > self.n)
        del former  # with no lock held
        if leaves:
            with self._capture_metrics():
                if not self._spill_at_once(key, entry):
                    return
        self.spill_excess()

    def set_noevict(self, key: Key, value: object) -> None:
        """Hold a value of any size in memory, and spill nothing for it now."""
        self._replace(key, value, nbytes_of(value), leave=False)
        if self.fast.exceeds_target():
            self.fast.over_target = True

    def _replace(
        self, key: Key, value: object, nbytes: int, leave: bool
    ) -> tuple[Entry, Entry | None, bool]:
        """The new entry in memory, the old one, and whether the new one has to be moved out."""
        with self.lock:
            self._cancel_load(key)
            entry, former, was_away, leaves = self.fast.place(key, value, nbytes, leave)
            if was_away:
                try:
                    del self.slow[key]
                finally:
                    if not leaves:
                        self.fast.unpin(key)
            self.logged_pickle_errors.discard(key)
        return entry, former, leaves

    def __getitem__(self, key: Key) -> object:
        entry = self.fast.read(key)
        if entry is not None:
            self._report_reads(1, entry.nbytes)
            return entry.value
        with self._capture_metrics():
            return self._load(key)

    def get_many(self, keys: Iterable[Key]) -> dict[Key, object]:
        """{key: value} of those keys that are here.

        As ``{key: store[key] for key in keys if key in store}``, but all reads from memory are
        metered as one, and lost values are left out.
        """
        values = {}
        count = nbytes = 0
        for key in keys:
            entry = self.fast.read(key)
            if entry is not None:
                values[key] = entry.value
                count += 1
                nbytes += entry.nbytes
            elif key in self:
                # Another thread has deleted it since, or its file is lost
                with suppress(KeyError, SpillFileLost):
                    values[key] = self[key]
        if count:
            self._report_reads(count, nbytes)
        return values

    def __delitem__(self, key: Key) -> None:
        with self.lock:
            self._cancel_load(key)
            entry = self.fast.take_entry(key)
            if entry is None:
                if not self.fast.take_away(key):
                    raise KeyError(key)
                try:
                    del self.slow[key]
                finally:
                    self.fast.unpin(key)
            self.logged_pickle_errors.discard(key)
        # The value is freed here, with `entry`, while no lock is held

    def __contains__(self, key: object) -> bool:
        if self.fast.holds_key(key):
            return True
        with self.lock:  # another thread may be replacing it
            return self.fast.holds_key(key)

    def __len__(self) -> int:
        return self.fast.count()

    def __iter__(self) -> Iterator[Key]:
        """All keys that are here at this moment: those in memory, then those on disk."""
        with self.lock:  # no value comes back from disk meanwhile; one that is spilled is in both
            keys = dict.fromkeys(self.fast)
            spilled = self.fast.spilled_keys()
        yield from keys
        for key in spilled:
            if key not in keys:
                yield key

    # ----------------------------------------------------------------------------- back from disk

    def slow_to_fast(self, key: Key) -> object:
        """Bring a value back from disk; it stays there if it is heavier than the target alone."""
        return self._load(key)

    def _load(self, key: Key) -> object:
        while True:
            with self.lock:
                entry = self.fast.read(key)
                if entry is not None:
                    break
                if not self.fast.is_away(key):
                    raise KeyError(key)
                load = self._loads.get(key)
                if mine := load is None:
                    load = self._loads[key] = Load()
            if mine:
                self._read_back(key, load)
            elif load.thread == threading.get_ident():
                # Unpickling this value asks for the value itself; the outcome is the user's code's
                return self.slow[key]
            else:
                load.done.wait()
            if load.found:
                return load.value
        self._report_reads(1, entry.nbytes)
        return entry.value

    def _read_back(self, key: Key, load: Load) -> None:
        """Read a value from disk, and move it to memory if it fits and is still wanted.

        Raises `SpillFileLost`, or what unpickling the value raises, if it is still wanted.
        """
        try:
            value = self.slow[key]
            nbytes = nbytes_of(value)
            with self.lock:
                if not load.cancelled:
                    load.value, load.found = value, True
                    if nbytes <= self.n:
                        _, former, was_away, _ = self.fast.place(key, value, nbytes)
                        assert was_away and former is None, key
                        try:
                            del self.slow[key]
                        finally:
                            self.fast.unpin(key)
        except Exception as error:
            if not load.cancelled:
                if isinstance(error, SpillFileLost) and self.on_lost is not None:
                    self.on_lost(error)
                raise
        finally:
            with self.lock:
                if self._loads.get(key) is load:
                    del self._loads[key]
            load.done.set()
        if load.found:
            self.spill_excess()
            for callback in self.slow_to_fast_callbacks:
                callback(key, value)

    def _cancel_load(self, key: Key) -> None:
        if self._loads and (load := self._loads.pop(key, None)) is not None:
            load.cancelled = True

    # ---------------------------------------------------------------------------------- metrics

    @property
    def cumulative_metrics(self) -> defaultdict[tuple[str, str], float]:
        """{(label, unit): value}, ever-growing; a copy."""
        with self._metrics_lock:
            metrics = self._metrics.copy()
        if self.fast.read_count:
            metrics["memory-read", "count"] = self.fast.read_count
            metrics["memory-read", "bytes"] = self.fast.read_bytes
        return metrics

    @cumulative_metrics.setter
    def cumulative_metrics(self, value: defaultdict[tuple[str, str], float]) -> None:
        self._metrics = value

    @contextmanager
    def _capture_metrics(self) -> Iterator[None]:
        # With a key, so that a call inside of another one of this store counts once
        with context_meter.add_callback(self._add_metric, key=(Store, id(self))):
            yield

    def _add_metric(self, label: Hashable, value: float, unit: str) -> None:
        with self._metrics_lock:
            self._metrics[cast(str, label), unit] += value

    @staticmethod
    def _report_reads(count: int, nbytes: int) -> None:
        """Report reads to the callbacks of this context; `fast` has counted them for the store."""
        context_meter.digest_metric("memory-read", count, "count")
        context_meter.digest_metric("memory-read", nbytes, "bytes")


def weight(key: Key, value: object) -> Any:
    """The size of a value in bytes, for values put into `Store.fast` without it."""
    return nbytes_of(value)
