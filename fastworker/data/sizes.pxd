"""How many bytes values take."""

cpdef object nbytes_of(object value)
