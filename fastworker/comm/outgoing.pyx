"""Messages to bytes: a queue of pieces that the kernel reads in place, without a copy.

The layout is described in ``wire/head.pxd``.
"""

from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, errno
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from distributed.utils import ensure_memoryview

from fastworker.comm.arena cimport Block, new_block
from fastworker.comm.socket cimport QUICK, iovec, msghdr, send_pieces
from fastworker.wire.head cimport WORD, begin_head, head_size, put_word

cdef enum:
    # Frames below this size are copied next to each other, larger ones are sent from where they are
    GATHERED = 8 << 10
    # Pieces in one system call
    VECTOR = 64
    FEW_PIECES = 8


cdef class Outgoing:
    """A queue of bytes that the kernel has no room for yet."""

    def __dealloc__(self):
        self.clear()
        free(self.pieces)

    cdef int add(self, object source) except -1:
        """Queue all bytes of ``source``, which is kept until they are sent."""
        self.reserve(1)
        cdef Piece* piece = &self.pieces[self.n]
        PyObject_GetBuffer(source, &piece.buffer, PyBUF_ANY_CONTIGUOUS)
        piece.at = <const char*>piece.buffer.buf
        piece.left = piece.buffer.len
        self.nbytes += piece.left
        self.n += 1
        return 0

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room behind the last piece."""
        cdef Py_ssize_t capacity
        cdef Piece* pieces
        if self.first and self.n + more > self.capacity:
            memmove(self.pieces, self.pieces + self.first, (self.n - self.first) * sizeof(Piece))
            self.n -= self.first
            self.first = 0
        if self.n + more > self.capacity:
            capacity = max(FEW_PIECES, 2 * self.capacity, self.n + more)
            pieces = <Piece*>realloc(self.pieces, capacity * sizeof(Piece))
            if pieces == NULL:
                raise MemoryError(f"cannot queue {more} buffers to be sent")
            self.pieces = pieces
            self.capacity = capacity
        return 0

    cdef int sent(self, Py_ssize_t nbytes) except -1:
        """The first ``nbytes`` have gone; let go of what is no longer needed."""
        cdef Piece* piece
        cdef Py_buffer buffer
        self.nbytes -= nbytes
        while self.first < self.n:
            piece = &self.pieces[self.first]
            if piece.left > nbytes:
                piece.at += nbytes
                piece.left -= nbytes
                break
            nbytes -= piece.left
            # Releasing the buffer may run user code, which may even queue more
            buffer = piece.buffer
            self.first += 1
            if self.first == self.n:
                self.first = self.n = 0
            PyBuffer_Release(&buffer)
        return 0

    cdef int clear(self) except -1:
        """Drop everything that was not sent."""
        self.sent(self.nbytes)
        return 0

    cdef Py_ssize_t send_some(self, int fd) except -2:
        """Hand the kernel as much as it takes at once.

        Returns the number of bytes; -1 if the kernel had no room. Raises OSError.
        """
        cdef iovec vector[VECTOR]
        cdef msghdr message
        cdef Py_ssize_t sent, asked = 0
        cdef Py_ssize_t i, count = min(self.n - self.first, VECTOR)
        for i in range(count):
            vector[i].iov_base = <void*>self.pieces[self.first + i].at
            vector[i].iov_len = self.pieces[self.first + i].left
            asked += self.pieces[self.first + i].left
        memset(&message, 0, sizeof(message))
        message.msg_iov = vector
        message.msg_iovlen = count
        if asked <= QUICK:
            sent = send_pieces(fd, &message)
        else:
            with nogil:
                sent = send_pieces(fd, &message)
        if sent < 0:
            if errno == EAGAIN:
                return -1
            PyErr_SetFromErrno(OSError)
        self.sent(sent)
        return sent


cdef class Packed:
    """The buffers of a message's frames, held until it was sent or queued."""

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            PyBuffer_Release(&self.frames[i].buffer)
        free(self.frames)

    cdef int place_head_end(self, list frames) except -1:
        """Decide which frames are part of the head.

        A receiver keeps the head in one piece of memory and each later frame in its own. What is
        only looked at while the message is decoded belongs to the head, and so does the first
        buffer that the decoded message will hold on to, if little else is kept alive with it.
        """
        cdef Py_ssize_t i, nbytes
        cdef object owner, kept = None
        cdef object frame
        self.in_head = 0
        for i in range(self.n):
            frame = frames[i]
            owner = frame.obj if isinstance(frame, memoryview) else frame
            nbytes = self.frames[i].left
            if not isinstance(owner, bytes):
                if kept is None:
                    if <Py_ssize_t>self.in_head > max(2048, nbytes // 20):
                        break
                    kept = owner
                elif kept is not owner:
                    break
            self.in_head += nbytes
        return 0

    cdef Py_ssize_t write_head(self, char* where) noexcept:
        """Write what stands before the frames; returns its size."""
        cdef char* lengths = begin_head(where, self.n, self.in_head)
        cdef Py_ssize_t i
        for i in range(self.n):
            put_word(lengths + WORD * i, self.frames[i].left)
        return head_size(self.n)

    cdef Py_ssize_t copy_to(self, char* where) noexcept:
        """Write the whole message; returns its size."""
        cdef Py_ssize_t i, at = self.write_head(where)
        for i in range(self.n):
            if self.frames[i].left:
                memcpy(where + at, self.frames[i].at, self.frames[i].left)
                at += self.frames[i].left
        return at

    cdef int move_to(self, Outgoing out) except -1:
        """Queue the message: small frames copied, large ones as they are.

        Raises MemoryError; nothing was queued then.
        """
        cdef Py_ssize_t i = 0, j, k, size = head_size(self.n), at
        cdef Block memory
        cdef list copies = []
        cdef bint first = True
        # Everything that can fail is done before anything is queued
        out.reserve(2 * self.n + 1)
        while i < self.n or first:
            j = i
            while j < self.n and self.frames[j].left < GATHERED:
                size += self.frames[j].left
                j += 1
            if size:
                memory = new_block(size)
                at = self.write_head(<char*>memory.data) if first else 0
                for k in range(i, j):
                    if self.frames[k].left:
                        memcpy(memory.data + at, self.frames[k].at, self.frames[k].left)
                        at += self.frames[k].left
                copies.append(memory)
            else:
                copies.append(None)
            first = False
            size = 0
            i = j + 1
        at = 0
        i = 0
        for copy in copies:
            if copy is not None:
                out.add(copy)
            while i < self.n and self.frames[i].left < GATHERED:
                i += 1
            if i < self.n:
                # From here on the queue holds the buffer
                out.pieces[out.n] = self.frames[i]
                out.n += 1
                out.nbytes += self.frames[i].left
                memset(&self.frames[i], 0, sizeof(Piece))
                i += 1
        return 0


cdef Packed pack(list frames):
    """Look at the frames of a message.

    Raises TypeError if one of them has no bytes to send.
    """
    cdef Packed packed = Packed.__new__(Packed)
    cdef Py_ssize_t i, n = len(frames)
    cdef Piece* piece
    packed.frames = <Piece*>calloc(n if n else 1, sizeof(Piece))
    if packed.frames == NULL:
        raise MemoryError(f"cannot look at {n} frames")
    packed.nbytes = head_size(n)
    for i in range(n):
        piece = &packed.frames[i]
        frame = frames[i]
        if not PyObject_CheckBuffer(frame):
            raise TypeError(f"frame {i} of a message is no buffer but {type(frame).__name__}")
        try:
            PyObject_GetBuffer(frame, &piece.buffer, PyBUF_ANY_CONTIGUOUS)
        except BufferError:
            PyObject_GetBuffer(ensure_memoryview(frame), &piece.buffer, PyBUF_ANY_CONTIGUOUS)
        packed.n = i + 1
        piece.at = <const char*>piece.buffer.buf
        piece.left = piece.buffer.len
        packed.nbytes += piece.left
    packed.place_head_end(frames)
    return packed


def message_bytes(frames):
    """A message as the bytes that would be sent; for tests and tools."""
    cdef Packed packed = pack(list(frames))
    cdef bytes out = PyBytes_FromStringAndSize(NULL, packed.nbytes)
    packed.copy_to(PyBytes_AS_STRING(out))
    return out
