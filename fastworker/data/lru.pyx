"""Results in memory: a hash table whose entries are also linked from oldest to newest use.

It takes the place of ``SpillBuffer``'s ``zict.LRU`` on a dict, with the same methods. To the core
it is a `Storage`. `Store` does the spilling; the two keep these rules:

- A key is in `entries`, in `away`, or not here. It changes from one to the other in one stretch, so
  every answer was true at some moment.
- While a thread writes an entry to disk, the entry stays in `entries`, marked as leaving. Another
  thread may delete or replace it meanwhile; then the writing thread removes the file at the end.
  No other thread touches the file until then: the key is in `busy`.
"""

import threading
from collections.abc import ItemsView, KeysView, Mapping, ValuesView

cimport cython
from cpython.dict cimport PyDict_Contains, PyDict_DelItem, PyDict_SetItem
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from fastworker.core.storage cimport MISSING, Storage
from fastworker.data.entries cimport link_before, new_entry, plain, unlink

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object d, object key) except? NULL
    PyObject* PyDict_SetDefault(object d, object key, object value) except NULL

cdef int64_t HEAVIEST = 1 << 53  # more than any machine has; sums and doubles stay exact


cdef int64_t as_weight(object nbytes) except? -1:
    """The result of a `sizeof`, as a C number."""
    return min(max(int(nbytes), 0), HEAVIEST)


@cython.final
@cython.no_gc_clear  # `entries` is never None; the dict itself can be cleared, or its owner let go
cdef class ResultLRU(Storage):
    """{key: value} in memory, in the order of their last use.

    Parameters
    ----------
    n: float
        How many bytes to hold before values have to be evicted.
    weight: callable
        (key, value) -> bytes, for values that come without their size.
    on_evict: list of callables
        (key, value) -> None: write the value to disk. Called with no lock held. If it raises, the
        value stays.
    on_cancel_evict: list of callables
        (key, value) -> None: undo `on_evict`, since the key was deleted or replaced meanwhile.
    """

    def __cinit__(self, *args, **kwargs):
        self.entries = {}
        self.away = {}
        self.busy = {}
        self.ends = new_entry(None, None, 0, True)
        self.lock = threading.RLock()
        self.offset_ = 0

    def __init__(self, n, *, weight, on_evict=(), on_cancel_evict=()):
        self.n = n
        self.weight = weight
        self.on_evict = list(on_evict)
        self.on_cancel_evict = list(on_cancel_evict)

    # ------------------------------------------------------------------------ for compiled code

    cdef bint put(self, object key, object value, int64_t nbytes) except -1:
        """Hold a value; sets `over_target` if the values then exceed the target.

        False, and nothing happens, for a value heavier than the target, for a key that is here
        already, and for a key that is not plain.
        """
        cdef Entry entry
        if nbytes > self.heaviest or not plain(key):
            return False
        entry = new_entry(key, value, max(nbytes, 0), True)
        # No thread switch from here to return
        if self.has_custom_keys or (self.away and PyDict_Contains(self.away, key)):
            return False
        if PyDict_SetDefault(self.entries, key, entry) != <PyObject*>entry:
            return False
        self.insert(entry)
        if self.exceeds(self.limit):
            self.over_target = True
        return True

    cdef object look(self, object key):
        cdef Entry entry
        if self.has_custom_keys:
            return MISSING
        entry = self.find(key)
        if entry is None:
            return MISSING
        self.note_read(entry)
        return entry.value

    cdef object take(self, object key):
        """See `Storage`; also MISSING for a value whose failure to pickle is on record."""
        cdef Entry entry
        if self.has_custom_keys:
            return MISSING
        entry = self.find(key)
        if entry is None or entry.stuck:
            return MISSING
        self.remove(entry)
        return entry.value

    cdef bint holds(self, object key) except -1:
        if self.has_custom_keys:
            with self.lock:
                return PyDict_Contains(self.entries, key) or PyDict_Contains(self.away, key)
        return PyDict_Contains(self.entries, key) or (
            len(self.away) != 0 and PyDict_Contains(self.away, key)
        )

    # The same for Python code

    def try_put(self, key, value, int64_t nbytes):
        """`Storage.put`: hold a value. False if only the mapping's methods can take it."""
        return self.put(key, value, nbytes)

    def try_look(self, key, default=None):
        """`Storage.look`: a value in memory, or the default."""
        value = self.look(key)
        return default if value is MISSING else value

    def try_take(self, key, default=None):
        """`Storage.take`: remove a value from memory and return it, or the default."""
        value = self.take(key)
        return default if value is MISSING else value

    # -------------------------------------------------------------------------------- stretches

    cdef Entry find(self, object key):
        cdef PyObject* found = PyDict_GetItemWithError(self.entries, key)
        return None if found == NULL else <Entry>found

    cdef int insert(self, Entry entry) except -1:
        """Count an entry that has just been put into `entries`; it is the newest."""
        link_before(entry, self.ends)
        entry.held = True
        self.total += entry.nbytes
        return 0

    cdef int remove(self, Entry entry) except -1:
        """Remove from `entries`; the caller holds the entry until the stretch is over."""
        PyDict_DelItem(self.entries, entry.key)
        unlink(entry)
        entry.held = False
        self.total -= entry.nbytes
        if entry.leaving:
            self.total_leaving -= entry.nbytes
        return 0

    cdef void note_read(self, Entry entry) noexcept:
        self.read_count += 1
        self.read_bytes += entry.nbytes
        self.renew(entry)

    cdef void renew(self, Entry entry) noexcept:
        """Make it the newest."""
        if entry.newer != <PyObject*>self.ends:
            unlink(entry)
            link_before(entry, self.ends)

    cdef bint exceeds(self, double limit) noexcept:
        """Whether more than `limit` bytes stay after the entries that are being spilled."""
        return <double>(self.total - self.total_leaving) > limit

    cdef bint lacks_room(self, int64_t nbytes) noexcept:
        """Whether a value has to be spilled before one of that size fits into memory."""
        return (
            not self.closed and <double>nbytes <= self.heaviest
            and self.exceeds(self.limit - <double>nbytes)
        )

    cdef Entry oldest_idle(self):
        """The entry to spill next, or None if there is none."""
        cdef Entry entry
        cdef PyObject* at = self.ends.newer
        while at != <PyObject*>self.ends:
            entry = <Entry>at
            if not PyDict_Contains(self.busy, entry.key):
                return entry
            at = entry.newer
        return None

    cdef int begin_leaving(self, Entry entry) except -1:
        PyDict_SetItem(self.busy, entry.key, None)
        entry.leaving = True
        self.total_leaving += entry.nbytes
        return 0

    cdef int stay(self, Entry entry) except -1:
        """End the spilling of an entry that stays, or that was deleted or replaced meanwhile."""
        PyDict_DelItem(self.busy, entry.key)
        entry.leaving = False
        if entry.held:
            self.total_leaving -= entry.nbytes
        return 0

    # ------------------------------------------------------------------------------- for `Store`

    def place(self, key, value, nbytes, bint leave=False):
        """Replace the value of a key, in memory or away.

        Parameters
        ----------
        nbytes
            The size of the value in bytes.
        leave
            Whether to write it to disk at once.

        Returns
        -------
        entry
            The new entry.
        former
            The former entry or None; the caller frees it when it holds no lock.
        was_away
            The former value was spilled: the caller has to remove its file, and then to `move_out`
            the new entry, if `leaves`, or to `unpin` the key.
        leaves
            The caller has to `move_out` the new entry. False without `leave`, and while another
            thread writes the former value.
        """
        cdef bint is_plain = plain(key)
        cdef Entry entry = new_entry(key, value, as_weight(nbytes), is_plain)
        cdef Entry former
        cdef bint was_away = False, leaves = False
        with self.lock:
            if not is_plain:
                self.has_custom_keys = True
            former = self.find(key)
            if former is not None:
                self.remove(former)
            was_away = PyDict_Contains(self.away, key)
            if was_away:
                PyDict_DelItem(self.away, key)
            PyDict_SetItem(self.entries, key, entry)
            self.insert(entry)
            leaves = leave and not PyDict_Contains(self.busy, key)
            if leaves:
                self.begin_leaving(entry)
            elif was_away:
                PyDict_SetItem(self.busy, key, None)
        # `leaves` is not `entry.leaving`: another thread may begin to spill it at any time
        return entry, former, was_away, leaves

    def unpin(self, key):
        """The key may be spilled again."""
        with self.lock:
            PyDict_DelItem(self.busy, key)

    def take_entry(self, key):
        """Delete a key in memory. Its entry, which the caller frees with no lock held, or None."""
        cdef Entry entry
        with self.lock:
            entry = self.find(key)
            if entry is not None:
                self.remove(entry)
        return entry

    def take_if_held(self, Entry entry not None):
        """Delete this very entry, if it is still here."""
        with self.lock:
            if entry.held:
                self.remove(entry)

    def is_away(self, key):
        with self.lock:
            return PyDict_Contains(self.away, key)

    def take_away(self, key):
        """Forget a key that was spilled; False if it was not.

        The caller has to remove its file, and then to `unpin` the key.
        """
        cdef bint found = False
        with self.lock:
            found = PyDict_Contains(self.away, key)
            if found:
                PyDict_DelItem(self.away, key)
                PyDict_SetItem(self.busy, key, None)
        return found

    def read(self, key):
        """The entry of a key in memory, or None; counted as read."""
        cdef Entry entry
        with self.lock:
            entry = self.find(key)
            if entry is not None:
                self.note_read(entry)
        return entry

    def mark_stuck(self, key):
        """Note that the failure to pickle this value has been logged. False if it is gone."""
        cdef Entry entry
        with self.lock:
            entry = self.find(key)
            if entry is not None:
                entry.stuck = True
        return entry is not None

    def spilled_keys(self):
        """A list of the keys that are away."""
        return list(self.away)

    def count(self):
        """How many keys there are, in memory and away."""
        return len(self.entries) + len(self.away)

    def holds_key(self, key):
        """Whether the key is here, in memory or away."""
        return self.holds(key)

    def exceeds_target(self, int64_t room=0):
        """Whether values have to be spilled before `room` more bytes fit."""
        return not self.closed and self.exceeds(self.limit - <double>room)

    def move_out(self, Entry entry not None):
        """Spill an entry for which `place` returned `leaves`. Returns and raises as `evict`."""
        key, value = entry.key, entry.value
        try:
            for callback in self.on_evict:
                callback(key, value)
        except BaseException as error:
            with self.lock:
                self.stay(entry)
            if entry.held or not isinstance(error, Exception):
                raise
            return None, None, 0  # deleted or replaced: the error does not matter
        with self.lock:
            if entry.held:
                self.remove(entry)
                PyDict_SetItem(self.away, key, None)
                PyDict_DelItem(self.busy, key)
                return key, value, entry.nbytes
        try:
            for callback in self.on_cancel_evict:
                callback(key, value)
        finally:
            with self.lock:
                self.stay(entry)
        return None, None, 0

    def evict_oldest(self, Entry but=None):
        """`evict` the oldest entry that is not busy; None if there is none, or if it is `but`."""
        cdef Entry entry
        with self.lock:
            entry = self.oldest_idle()
            if entry is None or entry is but:
                return None
            self.begin_leaving(entry)
        return self.move_out(entry)

    # ------------------------------------------------------------------------- as in zict.LRU

    @property
    def n(self):
        """How many bytes to hold before values have to be evicted. Setting it evicts nothing."""
        return self.n_

    @n.setter
    def n(self, value):
        self.n_ = value
        self.heaviest = value
        self.limit = value - self.offset_

    @property
    def offset(self):
        """Bytes that count as if they were held. Setting it evicts nothing."""
        return self.offset_

    @offset.setter
    def offset(self, value):
        self.offset_ = value
        self.limit = self.n_ - value

    @property
    def total_weight(self):
        """The size of all values in bytes."""
        return self.total

    @property
    def weights(self):
        """{key: bytes}, a copy."""
        cdef Entry entry
        return {entry.key: entry.nbytes for entry in self._entries()}

    @property
    def order(self):
        """A list of all keys, the one that was used last at the end."""
        cdef list keys = []
        cdef PyObject* at = self.ends.newer
        while at != <PyObject*>self.ends:
            keys.append((<Entry>at).key)
            at = (<Entry>at).newer
        return keys

    def evict(self, key=MISSING):
        """Pass a value to the `on_evict` callbacks and remove it from memory.

        Parameters
        ----------
        key
            By default the one that has not been used for longest and is not leaving already.

        Returns
        -------
        (key, value, bytes), or (None, None, 0) if it was deleted or replaced meanwhile, or if other
        threads are evicting all values.

        Raises
        ------
        KeyError
            There is no such key.
        Exception
            A callback raised it. The value is still here.
        """
        cdef Entry entry
        with self.lock:
            entry = self.oldest_idle() if key is MISSING else self.find(key)
            if entry is None:
                if key is MISSING and self.entries:
                    return None, None, 0
                raise KeyError("evict(): nothing to evict" if key is MISSING else key)
            if PyDict_Contains(self.busy, entry.key):
                return None, None, 0
            self.begin_leaving(entry)
        return self.move_out(entry)

    def evict_until_below_target(self, n=None):
        """Evict, oldest first, until at most `n` bytes are held; by default the target.

        Raises any error of a callback.
        """
        cdef double limit = self.limit if n is None else n - self.offset_
        while self.exceeds(limit) and not self.closed:
            if self.evict_oldest() is None:
                return

    def set_noevict(self, key, value):
        """Hold a value of any size."""
        _, _former, was_away, _ = self.place(key, value, self.weight(key, value))
        if was_away:
            self.unpin(key)

    def __setitem__(self, key, value):
        self.set_noevict(key, value)
        self.evict_until_below_target()

    def __getitem__(self, key):
        cdef Entry entry
        with self.lock:
            entry = self.find(key)
            if entry is None:
                raise KeyError(key)
            self.renew(entry)
        return entry.value

    def __delitem__(self, key):
        if self.take_entry(key) is None:
            raise KeyError(key)

    def get(self, key, default=None):
        """A value or the default."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key):
        if self.has_custom_keys:
            with self.lock:
                return PyDict_Contains(self.entries, key)
        return PyDict_Contains(self.entries, key)

    def __len__(self):
        return len(self.entries)

    def __iter__(self):
        # Of a copy: other threads may change the table at any time
        return iter(list(self.entries))

    def keys(self):
        return KeysView(self)

    def values(self):
        return MemoryValues(self)

    def items(self):
        return MemoryItems(self)

    def _entries(self):
        return list(self.entries.values())

    def __eq__(self, other):
        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.items()) == dict(other.items())

    def __repr__(self):
        weight = self.total + self.offset_
        return f"<ResultLRU: {len(self.entries)} values, {weight}/{self.n_} bytes>"

    def close(self):
        """Evict no more."""
        self.closed = True


Mapping.register(ResultLRU)


class MemoryValues(ValuesView):
    """The values of a `ResultLRU`; reading them does not make them newer."""

    def __iter__(self):
        cdef Entry entry
        for entry in self._mapping._entries():
            yield entry.value

    def __contains__(self, value):
        return any(v is value or v == value for v in self)


class MemoryItems(ItemsView):
    """The keys and values of a `ResultLRU`; reading them does not make them newer."""

    def __iter__(self):
        cdef Entry entry
        for entry in self._mapping._entries():
            yield entry.key, entry.value

    def __contains__(self, item):
        cdef Entry entry
        key, value = item
        entry = (<ResultLRU>self._mapping).find(key)
        return entry is not None and (entry.value is value or entry.value == value)
