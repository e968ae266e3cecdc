"""A table of strings that occur again and again."""

from libc.stdint cimport uint8_t

cdef enum:
    SHORT = 64  # bytes: what is longer is not looked up


cdef object short_string(const uint8_t* text, Py_ssize_t n)
