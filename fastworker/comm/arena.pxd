"""Blocks: the memory that messages are read into, aligned, writable, freed after its last view."""


cdef struct Slab:
    # A large mapping that pieces are cut from one after the other; unmapped when none is left.
    unsigned char* data
    size_t used
    Py_ssize_t users


cdef struct Piece:
    # Whole pages.
    unsigned char* data
    size_t nbytes
    Slab* slab  # that it was cut from; NULL: it was mapped alone


cdef class Block:
    # The address and the size never change after it was made, so views need no lock.
    cdef unsigned char* data
    cdef Py_ssize_t nbytes
    cdef Piece piece  # where the memory is from if it is large; small pieces are from malloc


cdef Block new_block(Py_ssize_t nbytes)
cdef object new_buffer(Py_ssize_t nbytes, unsigned char** data)
cdef object part_view(object view, Py_ssize_t start, Py_ssize_t stop)
