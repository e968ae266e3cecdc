"""The sizes of values in bytes."""

cpdef object nbytes_of(object value)
