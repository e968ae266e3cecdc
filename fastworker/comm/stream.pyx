"""One connection: messages in and out of a socket, with or without TLS.

Sockets are read and written here when the event loop says that they can be, without asyncio's
transports in between: a large frame is received into its own memory and sent from where it is,
as much of it as the kernel takes in one call; a small message goes out in one call right away.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EINTR, errno

from fastworker.comm.arena cimport Block, new_block
from fastworker.comm.outgoing cimport Outgoing, Packed, pack
from fastworker.comm.parser cimport Parser
from fastworker.comm.socket cimport MSG_DONTWAIT, QUICK, iovec, readv, recv, send_some

from socket import SHUT_RDWR
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError

from distributed.utils import ensure_memoryview

from fastworker.comm.parser import FrameError
from fastworker.config.logs import get_logger

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    #include <time.h>
    /* Whether the file becomes ready (`what`: POLLIN or POLLOUT) within `nanoseconds` */
    static int fastworker_soon(int fd, short what, long nanoseconds) {
        struct pollfd file = {fd, what, 0};
    #ifdef __linux__
        struct timespec patience = {0, nanoseconds};
        return ppoll(&file, 1, &patience, NULL) > 0;
    #else
        (void)nanoseconds;
        return poll(&file, 1, 0) > 0;
    #endif
    }
    """
    bint fastworker_soon(int fd, short what, long nanoseconds) nogil
    short POLLIN, POLLOUT

cdef enum:
    # Bytes read at once while the size of a frame is unknown, and the most of a message to copy
    SCRATCH = 64 << 10
    # Bytes received or sent before other callbacks of the event loop get their turn
    TURN = 8 << 20
    # In the middle of a large message the event loop's thread waits for the peer right here, as a
    # round of the event loop takes longer: SOON_NS at a time, SOON_TIMES in a row before other
    # callbacks get their turn, and only while each wait brings at least SOON_NBYTES
    SOON_NS = 100_000
    SOON_TIMES = 16
    SOON_NBYTES = 32 << 10
    # Bytes encrypted by one call; at least SCRATCH: OpenSSL wants what it refused again, whole
    TLS_CHUNK = 256 << 10
    # Limits of the first message: a handshake has a few hundred bytes, and its sender is unknown
    GREETING_FRAMES = 1 << 10
    GREETING_NBYTES = 1 << 20

# Blocks of SCRATCH bytes that no stream uses. The GIL guards the list: each use is one operation
cdef list spare_scratches = []
cdef enum:
    SPARE_SCRATCHES = 4


logger = get_logger("comm")


class Disconnected(ConnectionError):
    """There is no connection any more; ``cause`` is the error that ended it, if there was one."""

    def __init__(self, cause):
        super().__init__("the connection is closed" if cause is None else str(cause))
        self.cause = cause


class StalledError(Exception):
    """A peer stopped in the middle of a message."""


cdef class Stream:
    """Messages, as lists of frames, over a connected non-blocking socket.

    Parameters
    ----------
    loop
        The event loop, with ``add_reader`` and ``add_writer``. All calls but `abort` have to come
        from its thread.
    socket
        Plain, or an ``SSLSocket`` after its handshake. Belongs to the stream from now on.
    max_frames, max_nbytes
        Most frames, and most bytes of all frames, that a message from the peer may have. The
        first one has to be much smaller.
    peer
        Its address, for the log.
    stall_timeout
        Seconds that a peer may stop in the middle of a message; 0 for no limit.
    """

    def __cinit__(self, loop, socket, max_frames, max_nbytes, peer="?", stall_timeout=0.0):
        self.loop = loop
        self.peer = peer
        self.socket = socket
        self.fd = socket.fileno()
        self.thread = <unsigned long>PyThread_get_thread_ident()
        self.stall_timeout = stall_timeout
        self.parser = Parser.__new__(Parser, max_frames, max_nbytes)
        self.parser.limit_first(GREETING_FRAMES, GREETING_NBYTES)
        self.outgoing = Outgoing.__new__(Outgoing)
        self.drains = []
        if isinstance(socket, SSLSocket):
            self.tls_read = socket.read
            self.tls_write = socket.write
            self.tls_pending = socket.pending
        self.set_reading(True)

    def __repr__(self):
        state = "closed" if self.is_closed else f"fd={self.fd}"
        return f"<Stream {state} unsent={self.outgoing.nbytes}>"

    # -------------------------------------------------------------------------------- reading

    def expect_message(self):
        """Let the stall timeout apply as if the first message had begun already."""
        if not self.parser.greeted:
            self.watch_for_stall()

    def take(self):
        """The oldest message that has arrived and was not taken, or None.

        Raises Disconnected if there is none and there can be none.
        """
        if self.parser.ready():
            frames = self.parser.take()
            if not self.reading and not self.is_closed and not self.full():
                self.set_reading(True)
            return frames
        if self.is_closed:
            raise Disconnected(self.error)
        return None

    def wait(self):
        """A future of the next message, to be made after `take` returned None.

        Gets Disconnected if the connection ends. Raises RuntimeError if another future waits.
        """
        if self.reader is not None and not self.reader.done():
            raise RuntimeError("two readers of one connection")
        self.reader = self.loop.create_future()
        if not self.reading:
            self.set_reading(True)
        return self.reader

    def _readable(self):
        if self.is_closed:
            return
        try:
            if self.write_wants_read:
                self.write_wants_read = False
                self.flush()
            if self.full():
                self.set_reading(False)
            else:
                self.receive()
        except (OSError, FrameError, MemoryError) as error:
            self.fail(error)

    cdef bint full(self) noexcept:
        """Whether to stop reading: no reader waits, and a message or a large frame is at hand."""
        return self.reader is None and (
            self.parser.ready() or self.parser.direct(NULL) > 0
        )

    cdef int receive(self) except -1:
        cdef Block scratch
        try:
            scratch = spare_scratches.pop()
        except IndexError:
            scratch = new_block(SCRATCH)
        try:
            if self.tls_read is None:
                self.receive_plain(scratch)
            else:
                self.receive_tls(scratch)
        finally:
            if len(spare_scratches) < SPARE_SCRATCHES:
                spare_scratches.append(scratch)
        if self.parser.ready():
            self.arrived()
        if not self.is_closed and self.stall_timer is None and self.parser.partial():
            self.watch_for_stall()
        return 0

    cdef int receive_plain(self, Block scratch) except -1:
        cdef iovec vector[2]
        cdef unsigned char* where
        cdef Py_ssize_t direct, got, total = 0
        cdef Patience patience = Patience(0, 0)
        vector[1].iov_base = scratch.data
        vector[1].iov_len = SCRATCH
        while total < TURN and not self.is_closed:
            direct = self.parser.direct(&where)
            if direct:
                vector[0].iov_base = where
                vector[0].iov_len = direct
                if direct <= QUICK:
                    got = readv(self.fd, vector, 2)
                else:
                    with nogil:
                        got = readv(self.fd, vector, 2)
            else:
                got = recv(self.fd, scratch.data, SCRATCH, MSG_DONTWAIT)
            if got < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    PyErr_SetFromErrno(OSError)
                if not self.soon(POLLIN, direct, total, &patience):
                    break
                continue
            if got == 0:
                self.fail(None)
                break
            total += got
            if not direct:
                self.parser.push(scratch.data, got)
                # Less than was asked for: there is no more, or the loop will say so
                if got < SCRATCH and not self.parser.direct(&where):
                    break
            elif got <= direct:
                self.parser.advance(got)
            else:
                self.parser.advance(direct)
                self.parser.push(scratch.data, got - direct)
            if self.parser.ready() or self.full():
                break
        return 0

    cdef bint soon(
        self, short what, Py_ssize_t left, Py_ssize_t total, Patience* patience
    ) except -1:
        """Wait for the socket if that is quicker than a round of the event loop; True: go on.

        ``left``: bytes of the message still to move; ``total``: bytes moved in this turn.
        """
        cdef bint more
        if (
            left < SOON_NBYTES
            or total - patience.seen < SOON_NBYTES
            or patience.times == SOON_TIMES
        ):
            return False
        patience.seen = total
        patience.times += 1
        with nogil:
            more = fastworker_soon(self.fd, what, SOON_NS)
        return more

    cdef int receive_tls(self, Block scratch) except -1:
        cdef unsigned char* where
        cdef Py_ssize_t direct, got, total = 0
        while not self.is_closed and (total < TURN or self.tls_pending()):
            direct = self.parser.direct(&where)
            try:
                if direct:
                    view = PyMemoryView_FromMemory(<char*>where, direct, PyBUF_WRITE)
                    got = self.tls_read(direct, view)
                else:
                    view = PyMemoryView_FromMemory(<char*>scratch.data, SCRATCH, PyBUF_WRITE)
                    got = self.tls_read(SCRATCH, view)
            except SSLWantReadError:
                break
            except SSLWantWriteError:
                self.read_wants_write = True
                self.set_writing(True)
                break
            if got == 0:
                self.fail(None)
                break
            total += got
            if direct:
                self.parser.advance(got)
            else:
                self.parser.push(scratch.data, got)
            # The event loop does not call for bytes that are decrypted already
            if self.is_closed or (
                (self.parser.ready() or self.full()) and not self.tls_pending()
            ):
                break
        return 0

    cdef int arrived(self) except -1:
        """A message is complete: give it to the future that waits, if there is one."""
        reader = self.reader
        if reader is not None:
            self.reader = None
            if not reader.done() and not self.loop.is_closed():
                reader.set_result(self.parser.take())
        return 0

    # ------------------------------------------------------------------------ peers that stall

    cdef int watch_for_stall(self) except -1:
        if self.stall_timeout <= 0:
            return 0
        self.stall_received = self.parser.received
        self.stall_since = self.loop.time()
        self.stall_timer = self.loop.call_later(self.stall_timeout, self._check_stall)
        return 0

    def _check_stall(self):
        self.stall_timer = None
        if self.is_closed or (self.parser.greeted and not self.parser.partial()):
            return
        if self.parser.received != self.stall_received or not self.reading:
            self.watch_for_stall()
            return
        self.fail(
            StalledError(
                f"nothing has come for {self.stall_timeout:g} s in the middle of a message"
                if self.parser.partial()
                else f"no message within {self.stall_timeout:g} s"
            )
        )

    # -------------------------------------------------------------------------------- writing

    def send(self, frames):
        """Send a message, or queue what the kernel has no room for.

        Returns the bytes of the message. What is queued is sent from where it is: it must not
        change before `drained`. Raises Disconnected.
        """
        cdef Packed packed
        cdef Block scratch
        cdef Py_ssize_t nbytes, sent = 0
        if self.is_closed:
            raise Disconnected(self.error)
        packed = pack(frames)
        nbytes = packed.nbytes
        try:
            if nbytes > SCRATCH:
                packed.move_to(self.outgoing)
                if not self.writing:
                    self.flush()
                return nbytes
            try:
                scratch = spare_scratches.pop()
            except IndexError:
                scratch = new_block(SCRATCH)
            packed.copy_to(<char*>scratch.data)
            if not self.outgoing.nbytes:
                if self.tls_write is None:
                    sent = self.send_plain(<const char*>scratch.data, nbytes)
                else:
                    sent = self.send_tls(<const char*>scratch.data, nbytes)
            if sent < nbytes:
                self.outgoing.add(scratch.data[sent:nbytes])
                self.set_writing(True)
            if len(spare_scratches) < SPARE_SCRATCHES:
                spare_scratches.append(scratch)
        except OSError as error:
            self.fail(error)
            raise Disconnected(error) from error
        return nbytes

    def send_bytes(self, buffers):
        """Send bytes that are messages already, or queue what the kernel has no room for.

        As with `send`, what is queued is sent from where it is. Raises Disconnected.
        """
        if self.is_closed:
            raise Disconnected(self.error)
        try:
            for buffer in buffers:
                view = ensure_memoryview(buffer)
                if view.nbytes:
                    self.outgoing.add(view)
            if not self.writing:
                self.flush()
        except OSError as error:
            self.fail(error)
            raise Disconnected(error) from error

    def drained(self, nbytes):
        """A future that is done when no more than ``nbytes`` are queued; None if that is so now.

        Gets Disconnected if the connection ends before.
        """
        if self.outgoing.nbytes <= nbytes:
            return None
        future = self.loop.create_future()
        self.drains.append((nbytes, future))
        return future

    @property
    def unsent(self):
        """Bytes that are queued."""
        return self.outgoing.nbytes

    cdef Py_ssize_t send_plain(self, const char* data, Py_ssize_t n) except -1:
        """How many of a few bytes the kernel took."""
        cdef Py_ssize_t sent = send_some(self.fd, data, n)
        if sent >= 0:
            return sent
        if errno != EAGAIN:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef Py_ssize_t send_tls(self, const char* data, Py_ssize_t n) except -1:
        """The same for TLS, which takes all or nothing; the same bytes have to be offered again."""
        try:
            return self.tls_write(PyMemoryView_FromMemory(<char*>data, n, PyBUF_READ))
        except SSLWantWriteError:
            self.set_writing(True)
        except SSLWantReadError:
            self.write_wants_read = True
        return 0

    def _writable(self):
        if self.is_closed:
            return
        try:
            if self.read_wants_write:
                self.read_wants_write = False
                self.receive()
            if not self.is_closed:
                self.flush()
        except (OSError, FrameError, MemoryError) as error:
            self.fail(error)

    cdef int flush(self) except -1:
        """Send as much as the kernel takes, and have the loop call again for the rest."""
        cdef Outgoing outgoing = self.outgoing
        cdef Py_ssize_t sent, chunk, total = 0
        cdef const char* at
        cdef Patience patience = Patience(0, 0)
        while outgoing.nbytes and total < TURN and not self.is_closed:
            if self.tls_write is None:
                sent = outgoing.send_some(self.fd)
                if sent < 0:
                    if not self.soon(POLLOUT, outgoing.nbytes, total, &patience):
                        break
                    continue
            else:
                chunk = min(outgoing.pieces[outgoing.first].left, TLS_CHUNK)
                at = outgoing.pieces[outgoing.first].at
                sent = self.send_tls(at, chunk)
                if sent == 0:
                    break
                outgoing.sent(sent)
            total += sent
        if self.is_closed:
            return 0
        self.set_writing(
            self.read_wants_write or (outgoing.nbytes > 0 and not self.write_wants_read)
        )
        if self.drains:
            self.wake_writers()
        return 0

    cdef int wake_writers(self) except -1:
        cdef list waiting = []
        for nbytes, future in self.drains:
            if future.done():
                continue
            if self.outgoing.nbytes <= nbytes:
                future.set_result(None)
            else:
                waiting.append((nbytes, future))
        self.drains = waiting
        return 0

    # -------------------------------------------------------------------------------- closing

    def closed(self):
        """Whether the connection has ended; `error` has the reason."""
        return self.is_closed

    def abort(self):
        """End the connection now; what is queued is lost. May be called from any thread."""
        if self.is_closed:
            return
        self.is_closed = True
        if (
            <unsigned long>PyThread_get_thread_ident() == self.thread
            or self.loop.is_closed()
            or not self.loop.is_running()
        ):
            self.dispose()
        else:
            self.loop.call_soon_threadsafe(self._dispose)

    def close(self):
        """End the connection after what was sent; `drained` tells whether that is all."""
        if not self.is_closed:
            try:
                self.socket.shutdown(SHUT_RDWR)
            except OSError:
                pass  # the peer closed it first
            self.abort()

    def _dispose(self):
        self.dispose()

    cdef int fail(self, object error) except -1:
        """The connection ended: by an error, or (None) because the peer closed it."""
        if not self.is_closed:
            self.is_closed = True
            self.error = error
            if isinstance(error, (FrameError, MemoryError, StalledError)):
                logger.warning("Closing the connection to %s: %s", self.peer, error)
            self.dispose()
        return 0

    cdef int dispose(self) except -1:
        if self.is_disposed:
            return 0
        self.is_disposed = True
        if not self.loop.is_closed():
            self.set_reading(False)
            self.set_writing(False)
        if self.stall_timer is not None:
            self.stall_timer.cancel()
            self.stall_timer = None
        self.tls_read = self.tls_write = self.tls_pending = None
        if self.before_close is not None:
            self.before_close()
            self.before_close = None
        # Making or dropping any object may run user code, which may close this stream while a
        # caller further up still uses it. That caller must not use the number of the file, which
        # the next socket may get
        self.fd = -1
        self.socket.close()
        if self.parser.ready():
            self.arrived()  # what came before the end
        waiting = [future for _, future in self.drains]
        if self.reader is not None:
            waiting.append(self.reader)
        self.drains = []
        self.reader = None
        if not self.loop.is_closed():
            for future in waiting:
                if not future.done():
                    future.set_exception(Disconnected(self.error))
        self.outgoing.clear()
        return 0

    cdef int set_reading(self, bint reading) except -1:
        if reading != self.reading:
            self.reading = reading
            if reading:
                self.loop.add_reader(self.fd, self._readable)
            else:
                self.loop.remove_reader(self.fd)
        return 0

    cdef int set_writing(self, bint writing) except -1:
        if writing != self.writing:
            self.writing = writing
            if writing:
                self.loop.add_writer(self.fd, self._writable)
            else:
                self.loop.remove_writer(self.fd)
        return 0
