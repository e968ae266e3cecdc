"""The worker's messages to the scheduler: collected by any thread, sent by one at a time.

When a batch leaves
    At once when the thread that added to it is idle (`send_soon`). Otherwise when the last batch
    left an interval ago (so the first message after a pause never waits), or when it is large; then
    the next thread that adds a message sends it. If no thread adds another message (all run long
    tasks), a timer on the event loop sends it.

What can go wrong
    A connection that breaks ends the outbox, and the comm is aborted; the worker notices at the
    comm. `fastworker.link.degraded` replaces a message that cannot be packed.
    Without memory, the caller that adds a message gets a MemoryError.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport isnan
from libc.stdint cimport uint64_t

import asyncio
import logging
from collections import deque
from datetime import timedelta
from functools import partial

from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError

import dask
from dask.utils import parse_timedelta

from distributed.comm import CommClosedError

from fastworker.config.logs import get_logger
from fastworker.link.degraded import ReportPacker

from fastworker.link.batch cimport unpacked
from fastworker.link.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from fastworker.link.transport cimport find_transport
from fastworker.core.clock cimport monotonic

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

logger = logging.getLogger("distributed.batched")
own_logger = get_logger("comm")  # for events that distributed's BatchedSend does not log

cdef enum:
    MAX_ROUNDS = 4  # batches that a thread sends for other threads before it goes back to work
    MAX_LOG_BYTES = 1 << 20  # of packed batches that are kept for `recent_message_log`
    LARGE_MESSAGE = 1_000_000  # bytes from which on distributed's log only notes that there was one


cdef class Outbox(Collector):
    """Sends messages to the scheduler in batches; in place of distributed's ``BatchedSend``.

    Parameters
    ----------
    interval
        How long messages are collected while no thread is idle: a number of ms, or as "2ms".
    loop
        tornado's event loop; the current one by default.
    serializers
        Names of serialization families for objects in messages; None for the usual ones.
    """

    def __cinit__(self):
        self.waiters = []
        self.closings = set()

    def __init__(self, interval, loop=None, serializers=None):
        self.loop = loop if loop is not None else IOLoop.current()
        self.aio = self.loop.asyncio_loop
        self.interval_ = parse_timedelta(interval, default="ms")
        self.serializers = serializers
        self.log = deque(maxlen=dask.config.get("distributed.admin.low-level-log-length"))

    def __repr__(self):
        if self.transport is None:
            state = "not started"
        elif self.ended or self.closed():
            state = "closed"
        else:
            state = repr(self.comm)
        return f"<Outbox: {self.waiting.count} messages waiting, {state}>"

    cpdef int send_soon(self, bint idle) except -1:
        """Send the messages that were added, now or in time; any thread, without the core's lock.

        On the event loop they leave in its next round at the earliest, so that those of one round
        leave together.
        """
        if not self.waiting.count or self.transport is None:
            return 0
        if not idle and not self.due(monotonic()):
            return self.arm()
        if self.on_loop():
            return self.flush_soon()
        return self.push()

    def send(self, *messages):
        """Take messages and send them in time, from any thread.

        Raises CommClosedError if the connection has been closed.
        """
        if self.transport is not None and self.transport.comm.closed():
            raise CommClosedError(f"Comm {self.transport.comm!r} already closed.")
        for message in messages:
            self.add_message(message)
        self.send_soon(False)

    # ------------------------------------------------------------------------ whose turn it is

    cdef bint on_loop(self) noexcept:
        return PyThread_get_thread_ident() == self.loop_thread

    cpdef int push(self) except -1:
        """Send what waits, from any thread; the event loop sends what this thread cannot.

        Never waits and never raises because of the connection.
        """
        cdef Transport transport = self.transport
        if transport is None or not self.waiting.count:
            return 0
        if transport.direct or self.claimed or self.on_loop():
            return self.send_all()
        return self.wake()

    cpdef int flush(self) except -1:
        """Send what there is, on the event loop."""
        if self.transport is None:
            return 0
        return self.send_all()

    cpdef int flush_soon(self) except -1:
        """Send what there is, in the event loop's next round."""
        if self.transport is None or not self.waiting.count:
            return 0
        return self.wake()

    cdef int wake(self) except -1:
        cdef bint asked
        pthread_mutex_lock(&self.lock)
        asked = self.soon or self.ended
        self.soon = True
        pthread_mutex_unlock(&self.lock)
        return 0 if asked else self.call_loop(self._flush_now, ())

    def _flush_now(self):
        pthread_mutex_lock(&self.lock)
        self.soon = False
        pthread_mutex_unlock(&self.lock)
        self.flush()

    cdef int arm(self) except -1:
        """Ask the event loop to look after the interval, unless it has been asked."""
        cdef bint asked
        pthread_mutex_lock(&self.lock)
        asked = self.armed or self.soon or self.ended
        if not asked:
            self.armed = True
        pthread_mutex_unlock(&self.lock)
        if asked:
            return 0
        if not self.on_loop():
            return self.call_loop(self._set_timer, ())
        self._set_timer()
        return 0

    def _set_timer(self):
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.aio.call_later(
            max(0.0, self.last_taken + self.interval_ - monotonic()), self._on_timer
        )

    def _on_timer(self):
        self.timer = None
        pthread_mutex_lock(&self.lock)
        self.armed = False
        pthread_mutex_unlock(&self.lock)
        if self.due(monotonic()):
            self.flush()
        elif self.waiting.count:
            self.arm()

    cdef int call_loop(self, object callback, tuple args) except -1:
        try:
            if self.on_loop():
                self.aio.call_soon(callback, *args)
            else:
                self.aio.call_soon_threadsafe(callback, *args)
        except RuntimeError as error:
            if not self.aio.is_closed():
                raise
            self.end()
            own_logger.debug("%r ends: %s", self, error)
        return 0

    # ---------------------------------------------------------------------------------- sending

    cdef int send_all(self) except -1:
        cdef OutgoingBatch batch
        cdef int rounds = 0
        while True:
            batch = self.claim()
            if batch is None:
                return 0
            try:
                if not self.dispatch(batch):
                    return 0
            except BaseException as error:
                self.fail(error)
                if not isinstance(error, Exception):
                    raise
                return 0
            if not self.release(batch):
                return 0
            rounds += 1
            if rounds == MAX_ROUNDS and not self.on_loop():
                return self.wake()

    cdef int release(self, OutgoingBatch batch) except -1:
        """A batch has left: give up the claim. 1: another was asked for, which the caller sends."""
        cdef bint more
        if self.departing is not None:
            self.counts.sent += self.departing_size
            self.keep_in_log(self.departing, self.departing_size)
            self.departing = None
        more = self.give_up(batch)
        if self.waiters:
            self.call_loop(self._wake_waiters, ())
        return more

    cdef int dispatch(self, OutgoingBatch batch) except -1:
        """Send a batch; False if the event loop has it now and will release it."""
        cdef Transport transport = self.transport
        if not transport.takes_bytes:
            if self.on_loop():
                self._write_messages(transport, batch)
            else:
                self.call_loop(self._write_messages, (transport, batch))
            return False
        if not batch.kept:
            self.departing = batch.body()
            return self.send_packed(transport, batch)
        comm = transport.comm
        packer = ReportPacker(
            {
                "sender": comm.local_info,
                "recipient": comm.remote_info,
                **comm.handshake_options,
            },
            self.serializers,
            comm.max_shard_size,
        )
        self.departing, buffers = batch.encoded(packer)
        pthread_mutex_lock(&self.lock)
        self.counts.degraded += <uint64_t>packer.degraded
        self.counts.unsendable += <uint64_t>packer.unsendable
        pthread_mutex_unlock(&self.lock)
        return self.send_buffers(transport, batch, buffers)

    cdef int send_packed(self, Transport transport, OutgoingBatch batch) except -1:
        cdef size_t size = 0
        cdef unsigned char* data = batch.framed(&size)
        cdef Py_ssize_t done = transport.write_now(data, size) if transport.direct else 0
        self.departing_size = size
        if done == <Py_ssize_t>size:
            self.counts.from_threads += not self.on_loop()
            return True
        self.counts.socket_full += transport.direct
        return self.leave_to_loop(
            transport, batch, [PyBytes_FromStringAndSize(<char*>data + done, size - done)]
        )

    cdef int send_buffers(self, Transport transport, OutgoingBatch batch, list buffers) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t i, n, done
        cdef bint direct = transport.direct
        self.departing_size = sum([memoryview(buffer).nbytes for buffer in buffers])
        for i in range(len(buffers) if direct else 0):
            PyObject_GetBuffer(buffers[i], &view, PyBUF_SIMPLE)
            n = view.len
            try:
                done = transport.write_now(<const unsigned char*>view.buf, n)
            finally:
                PyBuffer_Release(&view)
            if done < n:
                self.counts.socket_full += 1
                rest = [memoryview(buffers[i]).cast("B")[done:], *buffers[i + 1:]]
                return self.leave_to_loop(transport, batch, rest)
        if not direct:
            return self.leave_to_loop(transport, batch, buffers)
        self.counts.from_threads += not self.on_loop()
        return True

    cdef int leave_to_loop(self, Transport transport, OutgoingBatch batch, list buffers) except -1:
        """Have the event loop write the rest of a batch, and then release it."""
        if self.on_loop():
            return self._write_rest(transport, batch, buffers)
        self.call_loop(self._resume_after_rest, (transport, batch, buffers))
        return False

    def _write_rest(self, Transport transport, OutgoingBatch batch, list buffers):
        """True when all is written, False if it will be, and the batch be released then."""
        future = transport.write_later(buffers)
        if future is None:
            return True
        future.add_done_callback(partial(self._on_written, batch, None))
        return False

    def _resume_after_rest(self, Transport transport, OutgoingBatch batch, list buffers):
        try:
            if not self._write_rest(transport, batch, buffers):
                return
        except Exception as error:
            self.fail(error)
            return
        self._resume(batch)

    def _write_messages(self, Transport transport, OutgoingBatch batch):
        """Give a batch to the comm's own ``write``."""
        cdef list messages
        try:
            messages = batch.messages()
            self.writing = self.aio.create_task(
                transport.write_messages(messages, self.serializers)
            )
        except Exception as error:
            self.fail(error)
            return
        self.writing.add_done_callback(partial(self._on_written, batch, messages))

    def _on_written(self, OutgoingBatch batch, messages, future):
        """A batch has left by way of the event loop, or has failed to."""
        self.writing = None
        error = (
            CommClosedError("the write was cancelled") if future.cancelled() else future.exception()
        )
        if error is not None:
            self.fail(error)
            return
        if messages is not None:
            n_bytes = future.result() or 0
            self.counts.sent += n_bytes
            self.make_room_in_log()
            self.log.append(messages if n_bytes < LARGE_MESSAGE else "large-message")
        self._resume(batch)

    def _resume(self, OutgoingBatch batch):
        if self.release(batch):
            self.flush()

    cdef int keep_in_log(self, object packed, size_t size) except -1:
        """For `recent_message_log`: bytes only, so that nothing of the user's is kept alive."""
        self.make_room_in_log()
        if self.log.maxlen == 0:
            return 0
        if size >= LARGE_MESSAGE:
            self.log.append("large-message")
            return 0
        self.log.append(packed)
        self.log_bytes += len(packed)
        while self.log_bytes > MAX_LOG_BYTES:
            self.forget_oldest()
        return 0

    cdef int make_room_in_log(self) except -1:
        if self.log.maxlen and len(self.log) == self.log.maxlen:
            self.forget_oldest()
        return 0

    cdef int forget_oldest(self) except -1:
        oldest = self.log.popleft()
        if type(oldest) is bytes:
            self.log_bytes -= len(oldest)
        return 0

    # ----------------------------------------------------------------------------------- ending

    cdef int fail(self, object error) except -1:
        """The connection has broken, or may have been left in the middle of a message."""
        if isinstance(error, (OSError, StreamClosedError)):  # a CommClosedError is an OSError
            logger.info("Batched Comm Closed %r", self.comm, exc_info=error)
        else:
            logger.error("Error in batched write", exc_info=error)
        self.departing = None
        self.end()
        return self.call_loop(self._abort_comm, ())

    cdef int end(self) except -1:
        """Drop the waiting messages and all later ones."""
        cdef Py_ssize_t n = self.shut()
        if n:
            own_logger.debug("%d messages to the scheduler were not sent", n)
        if self.waiters and not self.aio.is_closed():
            self.call_loop(self._wake_waiters, ())
        return 0

    def _abort_comm(self):
        if self.timer is not None:
            self.timer.cancel()
        if not self.transport.comm.closed():
            self.transport.comm.abort()

    def _wake_waiters(self):
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def abort(self):
        """Drop what has not been sent, and close the connection at once."""
        if self.transport is None:
            return
        self.please_stop = True
        self.end()
        if self.on_loop():
            self._abort_comm()
        else:
            self.call_loop(self._abort_comm, ())

    def close(self, timeout=None):
        """Send everything, then close the comm; an awaitable, and under way without being awaited.

        Messages added meanwhile may be dropped: else `close` might never end.
        ``timeout`` is a number of seconds or a timedelta. When it is over, the connection is
        aborted and asyncio.TimeoutError raised.
        """
        self.please_stop = True
        if isinstance(timeout, timedelta):
            timeout = timeout.total_seconds()
        closing = self.aio.create_task(self._close(timeout))
        self.closings.add(closing)
        closing.add_done_callback(self.closings.discard)
        return closing

    async def _close(self, timeout):
        if self.transport is None:
            return
        try:
            await asyncio.wait_for(self._send_and_close(), timeout)
        except asyncio.TimeoutError:
            own_logger.warning(
                "%d messages to the scheduler were not sent within %s seconds",
                self.waiting.count, timeout,
            )
            self.abort()
            raise

    async def _send_and_close(self):
        comm = self.transport.comm
        pthread_mutex_lock(&self.lock)
        self.closing = True
        pthread_mutex_unlock(&self.lock)
        while not comm.closed():
            waiter = self.aio.create_future()
            self.waiters.append(waiter)
            # The sender looks at `waiters` after it gave up the claim: either it sees this future,
            # or the claim is free and there is nothing to wait for.
            self.flush()
            if not self.claimed and (self.ended or not self.waiting.count):
                break
            await waiter
        self.end()
        if self.timer is not None:
            self.timer.cancel()
        await comm.close()

    # ------------------------------------------------------------------------- for those outside

    def start(self, comm):
        """Send through this comm from now on. Call it on the event loop."""
        self.loop_thread = PyThread_get_thread_ident()
        self.comm = comm
        self.flush_soon()

    def closed(self):
        """Whether the comm is closed; None before there is one."""
        return self.transport.comm.closed() if self.transport is not None else None

    @property
    def comm(self):
        """What the messages go through; another one may be put in its place on the event loop."""
        return self.transport.comm if self.transport is not None else None

    @comm.setter
    def comm(self, comm):
        cdef Transport transport = find_transport(comm)
        if self.transport is not None:
            self.transport.detach()
        self.transport = transport
        self.native = transport.takes_bytes

    @property
    def interval(self):
        """Seconds for which messages are collected while no thread is idle; set it on the event
        loop. Raises ValueError for less than 0."""
        return self.interval_

    @interval.setter
    def interval(self, double seconds):
        if isnan(seconds) or seconds < 0:
            raise ValueError(f"an interval must be at least 0 seconds, got {seconds}")
        self.interval_ = seconds
        if self.timer is not None:
            self._set_timer()

    @property
    def recent_message_log(self):
        """The last batches that have left, each a list of messages, as many as fit into a MiB.

        In place of a batch of a MB or more there is "large-message". What was pickled is only there
        as ``{"__Pickled__": number}`` or ``{"__Serialized__": number}``.
        """
        return deque(
            (
                unpacked(<const unsigned char*>PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
                if type(item) is bytes
                else item
                for item in list(self.log)
            ),
            maxlen=self.log.maxlen,
        )
