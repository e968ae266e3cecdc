"""Blocks: the memory that messages are read into, aligned, writable, freed after its last view.

Small blocks come from malloc. Large ones are mapped one by one, for three reasons. A block without
views goes straight back to the system and leaves no hole in the heap. Pages of data that a peer
announced but never sent cost nothing. Huge pages spare most of the page faults, which on many
machines take longer than copying the data.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.slice cimport PySlice_New
from cpython.object cimport PyObject_GetItem
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** where, size_t alignment, size_t size)

cdef extern from "sys/mman.h" nogil:
    """
    #include <sys/mman.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    static int fastworker_want_huge_pages(void *where, size_t size) {
    #ifdef MADV_HUGEPAGE
        return madvise(where, size, MADV_HUGEPAGE);
    #else
        return 0;
    #endif
    }
    static int fastworker_forget_pages(void *where, size_t size) {
        return madvise(where, size, MADV_DONTNEED);
    }
    """
    void* mmap(void* where, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void* where, size_t size)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void* MAP_FAILED
    int fastworker_want_huge_pages(void* where, size_t size)
    int fastworker_forget_pages(void* where, size_t size)

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int CLOCK_MONOTONIC

cdef enum:
    CACHE_LINE = 64
    PAGE = 4096
    HUGE_PAGE = 2 << 20
    MAPPED = 128 << 10
    # Pieces below HUGE_PAGE are cut from mappings (slabs) of SLAB bytes, as huge pages spare most
    # page faults; but only while MANY bytes of them are in use, so that the unused rest of the
    # last huge page is small beside them
    SLAB = 32 << 20
    MANY = 8 << 20
    # Spare pieces kept for later messages: at most KEPT of them, for KEEP_MS milliseconds. One is
    # used again for a request if it is at most 1/SLACK larger than that
    KEPT = 256
    KEEP_MS = 1000
    SLACK = 32

#: Every block starts at a multiple of this many bytes.
ALIGNMENT = CACHE_LINE
#: Blocks of this many bytes or more are mapped, smaller ones come from malloc.
MAPPED_FROM = MAPPED


cdef struct Kept:
    Piece piece
    long since  # milliseconds on the clock when it was given back

# The GIL guards all of these. The functions that touch them neither make nor drop Python objects,
# so no other thread can run in the middle of one.
# Spare pieces, the one given back longest ago first
cdef Kept kept[KEPT]
cdef Py_ssize_t n_kept = 0
cdef size_t kept_nbytes = 0
cdef size_t keep_nbytes = 0  # bytes of spare pieces; set by `keep_at_most`
cdef size_t small_nbytes = 0  # in use, of mapped pieces below HUGE_PAGE
cdef Slab* slab = NULL  # the one that new pieces are cut from


cdef class Block:
    """``nbytes`` of memory, not initialised, which supports the buffer protocol.

    Raises ValueError for a negative size and MemoryError, naming the size, if there is not that
    much memory.
    """

    def __cinit__(self, Py_ssize_t nbytes):
        if nbytes < 0:
            raise ValueError(f"a size of at least 0, not {nbytes}")
        self.nbytes = nbytes
        if nbytes >= MAPPED:
            self.piece = take_piece(nbytes)
            self.data = self.piece.data
        elif posix_memalign(<void**>&self.data, CACHE_LINE, max(nbytes, 1)):
            self.data = NULL
        if self.data == NULL:
            raise MemoryError(f"cannot allocate {nbytes} bytes for a message")

    def __dealloc__(self):
        if self.nbytes < MAPPED:
            free(self.data)
        elif self.data != NULL:
            give_back(self.piece)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, 0, flags)

    def __len__(self):
        return self.nbytes


def keep_at_most(size_t nbytes):
    """Limit the bytes of spare pieces: without views, kept for a second to be used again.

    Memory that was written to before is quicker by far than memory that is new.
    """
    global keep_nbytes
    keep_nbytes = nbytes
    shrink_kept(nbytes)


def bytes_kept():
    """The bytes of all spare pieces, after giving back those kept for over a second."""
    forget_spare()
    return kept_nbytes


# ----------------------------------------------------------------------------- pieces to use again


cdef long now() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000 + time.tv_nsec // 1_000_000


cdef Piece take_piece(size_t nbytes) noexcept:
    """A piece of at least ``nbytes``, a spare one if there is one; its data is NULL on failure."""
    global small_nbytes
    cdef size_t size = (nbytes + PAGE - 1) & ~<size_t>(PAGE - 1)
    cdef Piece piece
    piece.data = NULL
    forget_spare()
    take_kept(size, &piece)
    if piece.data == NULL:
        # No spare piece fits. Give spare ones back first, so that old and new stay below the limit
        if kept_nbytes + size > keep_nbytes:
            shrink_kept(keep_nbytes - size if keep_nbytes > size else 0)
        new_piece(size, &piece)
        if piece.data == NULL and n_kept:
            release(n_kept)
            new_piece(size, &piece)
    if piece.data != NULL and piece.nbytes < HUGE_PAGE:
        small_nbytes += piece.nbytes
    return piece


cdef void give_back(Piece piece) noexcept:
    global n_kept, kept_nbytes, small_nbytes
    if piece.nbytes < HUGE_PAGE:
        small_nbytes -= piece.nbytes
    forget_spare()
    if piece.nbytes > keep_nbytes:
        drop(&piece)
        return
    shrink_kept(keep_nbytes - piece.nbytes)
    if n_kept == KEPT:
        release(1)
    kept[n_kept].piece = piece
    kept[n_kept].since = now()
    n_kept += 1
    kept_nbytes += piece.nbytes


cdef void take_kept(size_t size, Piece* piece) noexcept:
    """The piece given back last among those of about this size."""
    global n_kept, kept_nbytes
    cdef Py_ssize_t i
    for i in range(n_kept - 1, -1, -1):
        if size <= kept[i].piece.nbytes <= size + size // SLACK:
            piece[0] = kept[i].piece
            kept_nbytes -= piece.nbytes
            n_kept -= 1
            memmove(kept + i, kept + i + 1, (n_kept - i) * sizeof(Kept))
            return


cdef void forget_spare() noexcept:
    """Give pieces back to the system that were kept for more than KEEP_MS."""
    cdef Py_ssize_t n = 0
    cdef long since
    if n_kept:
        since = now() - KEEP_MS
        while n < n_kept and kept[n].since < since:
            n += 1
        release(n)


cdef void shrink_kept(size_t nbytes) noexcept:
    """Give the oldest pieces back to the system until at most ``nbytes`` are left."""
    cdef Py_ssize_t n = 0
    cdef size_t left = kept_nbytes
    while n < n_kept and left > nbytes:
        left -= kept[n].piece.nbytes
        n += 1
    release(n)


cdef void release(Py_ssize_t n) noexcept:
    """Give the ``n`` oldest pieces back to the system."""
    global n_kept, kept_nbytes
    cdef Py_ssize_t i
    if n == 0:
        return
    for i in range(n):
        kept_nbytes -= kept[i].piece.nbytes
        drop(&kept[i].piece)
    n_kept -= n
    memmove(kept, kept + n, n_kept * sizeof(Kept))


# ------------------------------------------------------------------------------------- new pieces


cdef void new_piece(size_t size, Piece* piece) noexcept:
    """A piece from the system; ``size`` is one of whole pages."""
    global slab
    piece.nbytes = size
    piece.slab = NULL
    if size >= HUGE_PAGE or small_nbytes < MANY:
        piece.data = map_pages(size)
        return
    if slab != NULL and slab.used + size > SLAB:
        leave_slab(slab)
        slab = NULL
    if slab == NULL:
        slab = new_slab()
        if slab == NULL:
            piece.data = NULL
            return
    piece.data = slab.data + slab.used
    piece.slab = slab
    slab.used += size
    slab.users += 1


cdef void drop(Piece* piece) noexcept:
    """Give a piece back to the system."""
    if piece.slab == NULL:
        munmap(piece.data, piece.nbytes)
    else:
        fastworker_forget_pages(piece.data, piece.nbytes)
        leave_slab(piece.slab)


cdef Slab* new_slab() noexcept:
    cdef Slab* made = <Slab*>malloc(sizeof(Slab))
    if made == NULL:
        return NULL
    made.data = map_pages(SLAB)
    if made.data == NULL:
        free(made)
        return NULL
    made.used = 0
    made.users = 1  # the slab that pieces are cut from; `leave_slab` takes it off
    return made


cdef void leave_slab(Slab* left) noexcept:
    left.users -= 1
    if left.users == 0:
        munmap(left.data, SLAB)
        free(left)


cdef unsigned char* map_pages(size_t size) noexcept:
    """Pages of zeros, huge ones where that is possible; NULL if there are none to be had."""
    cdef size_t spare = HUGE_PAGE if size >= HUGE_PAGE else 0
    cdef size_t before
    cdef unsigned char* start = <unsigned char*>mmap(
        NULL, size + spare, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )
    if <void*>start == MAP_FAILED:
        return NULL
    if spare:
        # Huge pages have to start where one can start: cut off what is before and behind
        before = <size_t>(-<uintptr_t>start) & (HUGE_PAGE - 1)
        if before:
            munmap(start, before)
            start += before
        if spare - before:
            munmap(start + size, spare - before)
        # Only whole huge pages within the piece: it never takes more memory than it has
        fastworker_want_huge_pages(start, size)
    return start


cdef Block new_block(Py_ssize_t nbytes):
    return Block.__new__(Block, nbytes)


cdef object new_buffer(Py_ssize_t nbytes, unsigned char** data):
    """A writable buffer that is not initialised, and where it is: small ones are bytearrays."""
    cdef Block memory
    cdef object small
    if nbytes < MAPPED:
        small = PyByteArray_FromStringAndSize(NULL, nbytes)
        data[0] = <unsigned char*>PyByteArray_AS_STRING(small)
        return small
    memory = Block.__new__(Block, nbytes)
    data[0] = memory.data
    return memory


cdef object part_view(object view, Py_ssize_t start, Py_ssize_t stop):
    """``view[start:stop]``, which shares the memory that ``view`` is of."""
    return PyObject_GetItem(view, PySlice_New(start, stop, None))
