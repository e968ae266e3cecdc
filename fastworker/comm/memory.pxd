"""Memory that messages are read into: aligned, writable, given back as soon as nobody looks."""


cdef class Memory:
    # The address and the size never change after it was made, so views need no lock.
    cdef unsigned char* data
    cdef Py_ssize_t nbytes
    cdef size_t mapped  # bytes that were mapped for it alone; 0: from malloc


cdef Memory new_memory(Py_ssize_t nbytes)
cdef object whole_view(Memory memory)
cdef object part_view(object view, Py_ssize_t start, Py_ssize_t stop)
