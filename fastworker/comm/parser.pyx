"""Bytes to messages: a state machine that knows no sockets.

``wire/head.pxd`` has the layout of a message. The head ends with one of the frames; those behind it
are what the sender wants to be kept in memory of their own.

Each number is checked against the limits when it arrives. The parser allocates memory for what it
is about to read, never for what a peer merely announces: the list of lengths grows with the bytes
that arrive, a frame gets its memory when its turn comes, and pages without data cost nothing.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastworker.comm.arena cimport new_buffer, part_view
from fastworker.wire.head cimport WORD

cdef enum:
    # Frames of the head that are smaller share blocks of about so many bytes; larger ones that
    # follow each other are the parts of one buffer
    LARGE = 32 << 10
    SHARED = 64 << 10
    # Behind the head each frame has memory of its own, but for those that are smaller than what it
    # takes to have that
    LARGE_BEHIND = 256
    SHARED_BEHIND = 4 << 10
    # Where frames that share a piece start: multiples of this
    ALIGN = 16
    # From this size on the rest of a frame is worth a read of its own
    DIRECT = 16 << 10
    FEW_LENGTHS = 64

EMPTY = memoryview(bytearray())


class FrameError(Exception):
    """What a peer sent is not a message, or one above the limits; the text says why."""


class MessageTooLarge(FrameError):
    """A message of more bytes than the limit: ``fastworker.comm.max-message-bytes``, or the
    narrower one of the first message."""


cdef class Parser:
    """Takes bytes as they come, hands out messages: lists of frames.

    Parameters
    ----------
    max_frames
        Most frames of a message.
    max_nbytes
        Most bytes of a message's frames, together.

    Raises
    ------
    FrameError
        From `feed`, when the bytes cannot be a message. What was complete before can still be
        taken; the next bytes raise again.
    MemoryError
        From `feed`, when there is no memory for a frame.
    """

    def __cinit__(self, max_frames, max_nbytes):
        self.limit(max_frames, max_nbytes)
        self.state = HEAD
        self.frames = []
        self.messages = []
        self.behind = []

    def __dealloc__(self):
        free(self.lengths.items)

    # ------------------------------------------------------------------------- for Python

    def set_limits_of_first(self, max_frames, max_nbytes):
        """Narrower limits for the first message, before there is any."""
        self.limit_first(max_frames, max_nbytes)

    def feed(self, data):
        """Take the bytes that come next."""
        # No typed memoryview: that would bring Cython's hundred kilobytes for them into the module
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.push(<const unsigned char*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def next_message(self):
        """The frames of the oldest message that has not been taken; None if there is none.

        Frames are writable. Large ones have memory of their own.
        """
        return self.take() if self.ready() else None

    @property
    def in_message(self):
        """Whether a message has begun and has not ended."""
        return self.partial()

    @property
    def allocated(self):
        """Bytes taken for the message that is being read: lengths, and the frame under way."""
        return self.lengths.capacity * sizeof(uint64_t) + self.block_nbytes

    # ------------------------------------------------------------- for other compiled modules

    cdef int limit(self, uint64_t max_frames, uint64_t max_nbytes) except -1:
        # A length plus the length of the head must not overflow
        if max_frames < 1 or max_frames > 1 << 48 or max_nbytes > 1 << 60:
            raise ValueError(f"no such limits: {max_frames} frames, {max_nbytes} bytes")
        self.max_frames = self.later_frames = max_frames
        self.max_nbytes = self.later_nbytes = max_nbytes
        return 0

    cdef int limit_first(self, uint64_t max_frames, uint64_t max_nbytes) except -1:
        """Narrower limits for the first message alone."""
        self.max_frames = min(max_frames, self.later_frames)
        self.max_nbytes = min(max_nbytes, self.later_nbytes)
        return 0

    cdef bint partial(self) noexcept:
        return self.state != HEAD or self.have > 0

    cdef bint ready(self) noexcept:
        return len(self.messages) > 0 or len(self.behind) > 0

    cdef list take(self):
        """The oldest message; there has to be one."""
        if not self.messages:
            # Turned around once for all of them, so that each leaves from the end
            self.messages, self.behind = self.behind, self.messages
            self.messages.reverse()
        return <list>self.messages.pop()

    cdef int push(self, const unsigned char* data, Py_ssize_t n) except -1:
        """Take ``n`` bytes that have to be copied."""
        cdef Py_ssize_t step
        while n > 0:
            if self.state == BODY:
                step = min(n, self.missing)
                memcpy(self.target, data, step)
                self.advance(step)
            elif self.state == HEAD:
                step = min(n, <Py_ssize_t>sizeof(self.head) - self.have)
                memcpy(self.head + self.have, data, step)
                self.have += step
                self.received += step
                if self.have == sizeof(self.head):
                    self.start_lengths()
            elif self.state == LENGTHS:
                step = min(n, WORD - self.have)
                memcpy(self.length + self.have, data, step)
                self.have += step
                self.received += step
                if self.have == WORD:
                    self.add_length((<uint64_t*>self.length)[0])
            else:
                raise FrameError("more bytes after what was no message")
            data += step
            n -= step
        return 0

    cdef Py_ssize_t direct(self, unsigned char** where) noexcept:
        """Where to read the rest of a large frame to, and how many bytes; 0: `push` it."""
        if self.state != BODY or self.missing < DIRECT:
            return 0
        if where != NULL:
            where[0] = self.target
        return self.missing

    cdef int advance(self, Py_ssize_t n) except -1:
        """``n`` bytes have been written to where the frame wants them."""
        self.received += n
        self.target += n
        self.missing -= n
        if self.missing == 0:
            self.end_frame()
        return 0

    # ------------------------------------------------------------------------------ inside

    cdef int start_lengths(self) except -1:
        self.head_nbytes = (<uint64_t*>self.head)[0]
        self.count = (<uint64_t*>self.head)[1]
        self.have = 0
        self.nbytes = 0
        self.lengths.n = 0
        self.state = LENGTHS
        if self.count == 0:
            self.refuse("a message without frames")
        if self.count > self.max_frames:
            self.refuse(
                f"{self.count} frames in one message, more than {self.max_frames} "
                + self.source(self.max_frames < self.later_frames, "max-frames")
            )
        if self.head_nbytes < WORD * (self.count + 1):
            self.refuse(f"a head of {self.head_nbytes} bytes for {self.count} lengths of frames")
        if self.head_nbytes - WORD * (self.count + 1) > self.max_nbytes:
            self.refuse_size(f"a head of {self.head_nbytes} bytes")
        return 0

    cdef int add_length(self, uint64_t nbytes) except -1:
        cdef Lengths* lengths = &self.lengths
        cdef Py_ssize_t capacity
        cdef uint64_t* items
        self.have = 0
        if nbytes > self.max_nbytes or self.nbytes + nbytes > self.max_nbytes:
            self.refuse_size(f"frames of {self.nbytes + nbytes} bytes in one message")
        self.nbytes += nbytes
        if lengths.n == lengths.capacity:
            capacity = max(FEW_LENGTHS, 2 * lengths.capacity)
            items = <uint64_t*>realloc(lengths.items, capacity * sizeof(uint64_t))
            if items == NULL:
                self.refuse(f"no memory for the lengths of {self.count} frames")
            lengths.items = items
            lengths.capacity = capacity
        lengths.items[lengths.n] = nbytes
        lengths.n += 1
        if <uint64_t>lengths.n == self.count:
            self.start_body()
        return 0

    cdef int start_body(self) except -1:
        """All lengths are known: see where the head ends, then read the first frame."""
        cdef uint64_t rest = self.head_nbytes - WORD * (self.count + 1)
        cdef Py_ssize_t i = 0
        while i < self.lengths.n and self.lengths.items[i] <= rest:
            rest -= self.lengths.items[i]
            i += 1
        if rest:
            self.refuse(f"a head of {self.head_nbytes} bytes that ends within a frame")
        self.in_head = i
        self.index = 0
        self.block_end = 0
        self.state = BODY
        self.start_frame()
        return 0

    cdef int start_frame(self) except -1:
        """Find out where the frame at `index` goes, past those without bytes."""
        while self.index < self.lengths.n and self.lengths.items[self.index] == 0:
            self.frames.append(EMPTY)
            self.index += 1
        if self.index == self.lengths.n:
            self.end_message()
            return 0
        if self.index >= self.block_end:
            self.start_block()
        self.missing = <Py_ssize_t>self.lengths.items[self.index]
        self.target = self.block + self.offset
        return 0

    cdef int start_block(self) except -1:
        """Memory for the frame at `index`, and for those after it that share it."""
        cdef Py_ssize_t i = self.index
        cdef bint head = i < self.in_head
        cdef Py_ssize_t end = self.in_head if head else self.lengths.n
        cdef uint64_t large = LARGE if head else LARGE_BEHIND
        cdef uint64_t most = SHARED if head else SHARED_BEHIND
        cdef uint64_t size = self.lengths.items[i]
        cdef uint64_t begin
        i += 1
        self.packed = size >= large
        if self.packed:
            while head and i < end and self.lengths.items[i] >= large:
                size += self.lengths.items[i]
                i += 1
        else:
            while i < end and self.lengths.items[i] < large:
                begin = (size + ALIGN - 1) & ~<uint64_t>(ALIGN - 1)
                if begin + self.lengths.items[i] > most:
                    break
                size = begin + self.lengths.items[i]
                i += 1
        self.view = None  # the frames look after the last one; free what they do not use
        self.block_nbytes = 0
        try:
            self.view = memoryview(new_buffer(<Py_ssize_t>size, &self.block))
        except MemoryError:
            self.state = BROKEN
            raise
        self.block_nbytes = <Py_ssize_t>size
        self.block_end = i
        self.offset = 0
        return 0

    cdef int end_frame(self) except -1:
        cdef Py_ssize_t nbytes = <Py_ssize_t>self.lengths.items[self.index]
        if nbytes == self.block_nbytes:
            self.frames.append(self.view)
        else:
            self.frames.append(part_view(self.view, self.offset, self.offset + nbytes))
        self.offset += nbytes
        if not self.packed:
            self.offset = (self.offset + ALIGN - 1) & ~<Py_ssize_t>(ALIGN - 1)
        self.index += 1
        self.start_frame()
        return 0

    cdef int end_message(self) except -1:
        self.behind.append(self.frames)
        self.frames = []
        if not self.greeted:
            self.greeted = True
            self.max_frames = self.later_frames
            self.max_nbytes = self.later_nbytes
        self.view = None
        self.block_nbytes = 0
        self.state = HEAD
        if self.lengths.capacity > 64 * FEW_LENGTHS:
            free(self.lengths.items)
            self.lengths.items = NULL
            self.lengths.capacity = 0
        return 0

    cdef int refuse(self, str why, type error=FrameError) except -1:
        self.state = BROKEN
        self.frames = []
        raise error(why)

    cdef int refuse_size(self, str what) except -1:
        return self.refuse(
            f"{what}, more than {self.max_nbytes} "
            + self.source(self.max_nbytes < self.later_nbytes, "max-message-bytes"),
            MessageTooLarge,
        )

    cdef str source(self, bint of_first, str setting):
        """Where a limit comes from, for the text of an error."""
        return "(the limit of the first message)" if of_first else f"(fastworker.comm.{setting})"
