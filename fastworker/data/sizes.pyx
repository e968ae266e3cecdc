"""The sizes of values in bytes, as ``dask.sizeof`` finds them, computed natively for common types.

``dask.sizeof`` picks a handler by the type of the value, and users may register their own. So each
call looks up the handler in Dask's own dict. The answer of Dask's handlers for builtin types is
computed natively. Any other handler is called, and any other case is left to
``distributed.sizeof.safe_sizeof``.
"""

from sys import getsizeof

from cpython.bytearray cimport PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact, PyDict_Size
from cpython.list cimport PyList_CheckExact, PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport PyObject
from cpython.set cimport PyAnySet_CheckExact, PySet_GET_SIZE
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_GET_LENGTH

from fastworker.core.storage cimport whole_bytes

import dask.sizeof
from distributed.sizeof import safe_sizeof

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    PyObject* PyDict_GetItemWithError(object d, object key) except? NULL
    long PyLong_AsLongAndOverflow(object value, int* overflow) except? -1

cdef enum:
    SAMPLED = 10  # Dask sizes all items of collections up to this length, random ones of longer
    DEEPEST = 4  # levels of nested collections that are computed natively

# {type: handler}: the dispatcher's own dict, so it is never out of date
cdef dict handlers = dask.sizeof.sizeof._lookup

# Dask's own handlers
cdef object GETSIZEOF = dask.sizeof.sizeof_default
cdef object LEN = dask.sizeof.sizeof_bytes
cdef object COLLECTION = dask.sizeof.sizeof_python_collection
cdef object MAPPING = dask.sizeof.sizeof_python_dict

cdef Py_ssize_t INT = getsizeof(1)
cdef Py_ssize_t FLOAT = getsizeof(0.5)
cdef Py_ssize_t COMPLEX = getsizeof(1j)
cdef Py_ssize_t NONE = getsizeof(None)
cdef Py_ssize_t TEXT = getsizeof("")
cdef Py_ssize_t EMPTY_LIST = getsizeof([])
cdef long ONE_DIGIT = 1 << 15  # no int below has more than one, whatever digits Python has

cdef object make_list = list  # called as Python calls it: how much room a list has depends on that


cdef inline PyObject* handler_of(object cls) except? NULL:
    """Dask's handler for exactly this type, borrowed; NULL if it has none."""
    return PyDict_GetItemWithError(handlers, cls)


cpdef object nbytes_of(object value):
    """The size of a value in whole bytes, as ``distributed.sizeof.safe_sizeof`` finds it.

    A value whose size cannot be found counts as a megabyte, and that is logged.

    Raises TypeError if a handler returns something else than a number, and any error that the
    value's type raises when its name is read.
    """
    cdef Py_ssize_t size
    cdef PyObject* found
    try:
        size = native(value, 0)
        if size >= 0:
            return size
        found = handler_of(type(value))
        if found == NULL:
            answer = safe_sizeof(value)
        else:
            answer = (<object>found)(value)
    except Exception:
        answer = safe_sizeof(value)  # again: it logs the error
    return whole_bytes(answer)


cdef Py_ssize_t native(object value, int depth) except -2:
    """The size, or -1 if it cannot be computed natively."""
    cdef PyObject* found = handler_of(type(value))
    if found == NULL:
        return -1
    if found == <PyObject*>GETSIZEOF:
        return plain_size(value)
    if found == <PyObject*>LEN:
        if PyBytes_CheckExact(value):
            return PyBytes_GET_SIZE(value)
        if PyByteArray_CheckExact(value):
            return PyByteArray_GET_SIZE(value)
    elif found == <PyObject*>COLLECTION:
        if depth < DEEPEST:
            return collection_size(value, depth + 1)
    elif found == <PyObject*>MAPPING:
        if depth < DEEPEST and PyDict_CheckExact(value) and PyDict_Size(value) <= SAMPLED:
            return mapping_size(value, depth + 1)
    return -1


cdef Py_ssize_t plain_size(object value) except -2:
    """What getsizeof says."""
    cdef int overflow
    cdef long number
    if PyLong_CheckExact(value):
        number = PyLong_AsLongAndOverflow(value, &overflow)
        if overflow == 0 and 0 < number < ONE_DIGIT:
            return INT
        return getsizeof(value)
    if PyUnicode_CheckExact(value):
        if PyUnicode_IS_COMPACT_ASCII(value):
            return TEXT + PyUnicode_GET_LENGTH(value)
        return getsizeof(value)
    if type(value) is float:
        return FLOAT
    if value is None:
        return NONE
    if type(value) is complex:
        return COMPLEX
    if type(value) is bool:
        return getsizeof(value)
    return -1


cdef Py_ssize_t collection_size(object value, int depth) except -2:
    cdef Py_ssize_t n
    if PyList_CheckExact(value):
        n = PyList_GET_SIZE(value)
    elif PyTuple_CheckExact(value):
        n = PyTuple_GET_SIZE(value)
    elif PyAnySet_CheckExact(value):
        n = PySet_GET_SIZE(value)
    else:
        return -1
    if n > SAMPLED:
        return -1
    cdef Py_ssize_t items = sum_sizes(value, depth)
    return -1 if items < 0 else <Py_ssize_t>getsizeof(value) + items


cdef Py_ssize_t sum_sizes(object collection, int depth) except -2:
    cdef Py_ssize_t total = 0, size
    for item in collection:
        size = native(item, depth)
        if size < 0:
            return -1
        total += size
    return total


cdef Py_ssize_t mapping_size(dict value, int depth) except -2:
    """Dask adds up the dict and lists of its keys and values, and takes two empty lists off."""
    if handler_of(list) != <PyObject*>COLLECTION:
        return -1
    cdef Py_ssize_t keys = collection_size(make_list(value.keys()), depth)
    if keys < 0:
        return -1
    cdef Py_ssize_t values = collection_size(make_list(value.values()), depth)
    if values < 0:
        return -1
    return <Py_ssize_t>getsizeof(value) + keys + values - 2 * EMPTY_LIST
