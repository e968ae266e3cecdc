"""Reads small pickles, in which tasks arrive, in compiled code.

Of the time for a task's pickle, the standard library spends most on two things: it goes through the
import system for every class and function, and ``Task.__setstate__`` is Python. Here a module that
was imported is looked up in ``sys.modules``, and compiled code sets a task's slots. The outcome is
that of `pickle.loads`, which is called where that is not certain:

- for a pickle with an opcode that tasks do not need, before any of it is read (`is_small`);
- for a class or function that is not an attribute of an imported module (`find_slowly`).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_SetItem
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastworker.wire.bigendian cimport load_double

import sys
from pickle import UnpicklingError
from pickle import loads as stdlib_loads

from dask._task_spec import Task

cdef extern from "Python.h":
    ctypedef object (*newfunc)(PyTypeObject*, object, PyObject*)
    ctypedef struct PyTypeObject:
        newfunc tp_new
    PyObject* PyDict_GetItemWithError(object d, object key) except? NULL
    int PySys_Audit(const char* event, const char* format, ...) except -1

cdef enum:  # opcodes
    MARK = 0x28  # (
    STOP = 0x2E  # .
    POP = 0x30  # 0
    BINFLOAT = 0x47  # G
    BININT = 0x4A  # J
    BININT1 = 0x4B  # K
    BININT2 = 0x4D  # M
    NONE = 0x4E  # N
    REDUCE = 0x52  # R
    BINBYTES = 0x42  # B
    SHORT_BINBYTES = 0x43  # C
    BINUNICODE = 0x58  # X
    EMPTY_LIST = 0x5D  # ]
    APPEND = 0x61  # a
    APPENDS = 0x65  # e
    BUILD = 0x62  # b
    BINGET = 0x68  # h
    LONG_BINGET = 0x6A  # j
    SETITEM = 0x73  # s
    SETITEMS = 0x75  # u
    TUPLE = 0x74  # t
    EMPTY_TUPLE = 0x29  # )
    EMPTY_DICT = 0x7D  # }
    PROTO = 0x80
    NEWOBJ = 0x81
    TUPLE1 = 0x85
    TUPLE2 = 0x86
    TUPLE3 = 0x87
    NEWTRUE = 0x88
    NEWFALSE = 0x89
    LONG1 = 0x8A
    SHORT_BINUNICODE = 0x8C
    FROZENSET = 0x91
    STACK_GLOBAL = 0x93
    MEMOIZE = 0x94
    FRAME = 0x95

cdef enum:  # what follows an opcode, if it is not a number of bytes
    UNKNOWN = -1
    COUNTED_BY_1 = 100
    COUNTED_BY_4 = 101

cdef enum:  # what an opcode takes from the stack, if it is not a number of objects
    TO_MARK = 100

cdef struct Effect:
    int takes
    int gives

cdef Py_ssize_t[256] arguments
cdef Effect[256] effects


cdef int known(tuple opcodes, int argument, int takes, int gives) except -1:
    cdef int opcode
    for opcode in opcodes:
        arguments[opcode] = argument
        effects[opcode] = Effect(takes, gives)
    return 0


for _i in range(256):
    arguments[_i] = UNKNOWN
known((FRAME,), 8, 0, 0)
known((MARK,), 0, 0, 0)
known((NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT), 0, 0, 1)
known((BININT1, BINGET), 1, 0, 1)
known((BININT2,), 2, 0, 1)
known((BININT, LONG_BINGET), 4, 0, 1)
known((BINFLOAT,), 8, 0, 1)
known((LONG1, SHORT_BINBYTES, SHORT_BINUNICODE), COUNTED_BY_1, 0, 1)
known((BINBYTES, BINUNICODE), COUNTED_BY_4, 0, 1)
known((MEMOIZE, TUPLE1), 0, 1, 1)
known((POP,), 0, 1, 0)
known((TUPLE2, STACK_GLOBAL, REDUCE, NEWOBJ, BUILD, APPEND), 0, 2, 1)
known((TUPLE3, SETITEM), 0, 3, 1)
known((TUPLE, FROZENSET, APPENDS, SETITEMS), 0, TO_MARK, 1)


cdef inline uint32_t four(const uint8_t* p) noexcept:
    return p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline uint64_t eight(const uint8_t* p) noexcept:
    return four(p) | <uint64_t>four(p + 4) << 32


cdef Py_ssize_t argument_size(const uint8_t* p, const uint8_t* end) noexcept:
    """Bytes of what follows the opcode at `p`; -1 for an unknown one, or if they are not all there.
    """
    cdef Py_ssize_t left = end - p - 1
    cdef Py_ssize_t n = arguments[p[0]]
    if n == COUNTED_BY_1:
        n = 1 + <Py_ssize_t>p[1] if left >= 1 else left + 1
    elif n == COUNTED_BY_4:
        n = 4 + <Py_ssize_t>four(p + 1) if left >= 4 else left + 1
    elif p[0] == FRAME and left >= 8 and eight(p + 1) > <uint64_t>(left - 8):
        return -1
    return n if n <= left else -1


cdef bint is_small(const uint8_t* data, Py_ssize_t size) noexcept:
    """Whether `Reading` can read this pickle: which opcodes it has, and what they do to the stack.

    No object is made and nothing is called. On False, call `pickle.loads`, which also reports what
    is wrong with the pickle.
    """
    cdef const uint8_t* p = data + 2
    cdef const uint8_t* end = data + size
    cdef Py_ssize_t[MARKS] marks
    cdef Py_ssize_t height = 0, fence = 0, memos = 0, n, taken
    cdef int n_marks = 0
    cdef uint8_t opcode
    if size < 3 or data[0] != PROTO or not 4 <= data[1] <= 5:
        return False
    while p < end:
        opcode = p[0]
        if opcode == STOP:
            return n_marks == 0 and height > 0
        n = argument_size(p, end)
        if n < 0:
            return False
        if opcode == MARK:
            if n_marks == MARKS - 1:
                return False
            marks[n_marks] = fence = height
            n_marks += 1
        else:
            taken = effects[opcode].takes
            if taken == TO_MARK:
                if n_marks == 0 or opcode == SETITEMS and (height - fence) % 2:
                    return False
                height = fence
                n_marks -= 1
                fence = marks[n_marks - 1] if n_marks else 0
                taken = 1 if opcode == APPENDS or opcode == SETITEMS else 0
            if opcode == BINGET or opcode == LONG_BINGET:
                if (p[1] if opcode == BINGET else four(p + 1)) >= memos:
                    return False
            elif opcode == MEMOIZE:
                memos += 1
            if height - taken < fence:
                return False
            height += effects[opcode].gives - taken
            if height > HEIGHT or memos > MEMOS:
                return False
        p += 1 + n
    return False


# ------------------------------------------------------------------------------- classes and tasks

# {name: module} of modules whose import has ended. While a module is being imported, some of its
# names are missing, and the import system makes other threads wait. Guarded by the GIL: a change is
# one operation on a key that is a str.
cdef dict imported = {}
cdef dict modules = sys.modules


cdef object find_slowly(str module, str name):
    """What pickle finds, or raises, for this name."""
    cdef bytes a = module.encode("utf-8", "surrogatepass")
    cdef bytes b = name.encode("utf-8", "surrogatepass")
    found = stdlib_loads(
        b"\x80\x04X" + len(a).to_bytes(4, "little") + a
        + b"X" + len(b).to_bytes(4, "little") + b + b"\x93."
    )
    if module in modules:
        imported[module] = modules[module]
    return found


cdef object find(object module, object name):
    """The class or function of this name."""
    cdef PyObject* before
    cdef PyObject* now
    if type(module) is not str or type(name) is not str:
        raise UnpicklingError("STACK_GLOBAL requires str")
    before = PyDict_GetItemWithError(imported, module)
    if before == NULL:
        return find_slowly(module, name)
    now = PyDict_GetItemWithError(modules, module)
    if now != before:
        return find_slowly(module, name)
    found = getattr(<object>now, name, imported)
    if found is imported:  # the name has dots, or is missing
        return find_slowly(module, name)
    PySys_Audit(b"pickle.find_class", b"OO", <PyObject*>module, <PyObject*>name)
    return found


cdef object find_setstate():
    """``Task.__setstate__``, or None if it does more than set one slot after the other."""
    method = Task.__setstate__
    names = set(method.__code__.co_names)
    return method if names == {"__class__", "get_all_slots", "zip", "setattr"} else None


cdef object TASK = Task
cdef object SETSTATE = find_setstate()
cdef tuple SLOTS = tuple(Task.get_all_slots())


cdef int set_slots(object task, tuple state) except -1:
    cdef Py_ssize_t i
    for i in range(min(len(SLOTS), len(state))):
        setattr(task, SLOTS[i], state[i])
    return 0


cdef int set_attributes(object instance, object state) except -1:
    """The state of an object without ``__setstate__``."""
    slots = None
    if type(state) is tuple and len(<tuple>state) == 2:
        state, slots = state
    if state is not None:
        if type(state) is not dict:
            raise UnpicklingError("state is not a dictionary")
        attributes = instance.__dict__
        for name, value in (<dict>state).items():
            if type(name) is str:
                name = sys.intern(name)
            attributes[name] = value
    if slots is not None:
        if type(slots) is not dict:
            raise UnpicklingError("slot state is not a dictionary")
        for name, value in (<dict>slots).items():
            setattr(instance, name, value)
    return 0


# --------------------------------------------------------------------------------------- reading


@cython.final
@cython.freelist(8)
cdef class Reading:
    """One pickle that is being read. `is_small` has seen that nothing it takes is missing."""

    def __dealloc__(self):
        while self.height:
            self.pop()
        while self.memos:
            self.memos -= 1
            Py_DECREF(<object>self.memo[self.memos])

    cdef inline void push(self, object value) noexcept:
        Py_INCREF(value)
        self.stack[self.height] = <PyObject*>value
        self.height += 1

    cdef inline object pop(self):
        self.height -= 1
        value = <object>self.stack[self.height]
        Py_DECREF(value)
        return value

    cdef inline object top(self):
        return <object>self.stack[self.height - 1]

    cdef tuple pop_to_mark(self):
        """What has come since the last mark, which goes with it."""
        cdef Py_ssize_t i, start
        self.n_marks -= 1
        start = self.marks[self.n_marks]
        cdef tuple items = PyTuple_New(self.height - start)
        for i in range(self.height - start):
            PyTuple_SET_ITEM(items, i, <object>self.stack[start + i])  # it has our reference now
        self.height = start
        return items

    cdef int build(self) except -1:
        state = self.pop()
        instance = self.top()
        if type(instance) is TASK and type(state) is tuple and SETSTATE is TASK.__setstate__:
            return set_slots(instance, state)
        setstate = getattr(instance, "__setstate__", imported)
        if setstate is imported:
            return set_attributes(instance, state)
        setstate(state)
        return 0

    cdef int append_to(self, tuple items) except -1:
        target = self.top()
        extend = getattr(target, "extend", None)
        if extend is not None:
            extend(items if type(target) is list else list(items))
            return 0
        append = target.append
        for item in items:
            append(item)
        return 0

    cdef int set_in(self, tuple items) except -1:
        cdef Py_ssize_t i
        target = self.top()
        for i in range(0, len(items), 2):
            PyObject_SetItem(target, items[i], items[i + 1])
        return 0

    cdef object read(self, const uint8_t* p):
        cdef uint8_t opcode
        cdef Py_ssize_t n
        p += 2
        while True:
            opcode = p[0]
            p += 1
            if opcode == MEMOIZE:
                value = self.top()
                Py_INCREF(value)
                self.memo[self.memos] = <PyObject*>value
                self.memos += 1
            elif opcode == SHORT_BINUNICODE:
                n = p[0]
                self.push(PyUnicode_DecodeUTF8(<const char*>p + 1, n, "surrogatepass"))
                p += 1 + n
            elif opcode == BINUNICODE:
                n = four(p)
                self.push(PyUnicode_DecodeUTF8(<const char*>p + 4, n, "surrogatepass"))
                p += 4 + n
            elif opcode == STACK_GLOBAL:
                name = self.pop()
                self.push(find(self.pop(), name))
            elif opcode == BINGET:
                self.push(<object>self.memo[p[0]])
                p += 1
            elif opcode == LONG_BINGET:
                self.push(<object>self.memo[four(p)])
                p += 4
            elif opcode == NONE:
                self.push(None)
            elif opcode == NEWTRUE:
                self.push(True)
            elif opcode == NEWFALSE:
                self.push(False)
            elif opcode == BININT1:
                self.push(<long>p[0])
                p += 1
            elif opcode == BININT2:
                self.push(<long>(p[0] | <uint16_t>p[1] << 8))
                p += 2
            elif opcode == BININT:
                self.push(<long><int32_t>four(p))
                p += 4
            elif opcode == LONG1:
                n = p[0]
                digits = PyBytes_FromStringAndSize(<const char*>p + 1, n)
                self.push(int.from_bytes(digits, "little", signed=True))
                p += 1 + n
            elif opcode == BINFLOAT:
                self.push(load_double(p))
                p += 8
            elif opcode == SHORT_BINBYTES:
                n = p[0]
                self.push(PyBytes_FromStringAndSize(<const char*>p + 1, n))
                p += 1 + n
            elif opcode == BINBYTES:
                n = four(p)
                self.push(PyBytes_FromStringAndSize(<const char*>p + 4, n))
                p += 4 + n
            elif opcode == EMPTY_TUPLE:
                self.push(())
            elif opcode == EMPTY_DICT:
                self.push({})
            elif opcode == EMPTY_LIST:
                self.push([])
            elif opcode == MARK:
                self.marks[self.n_marks] = self.height
                self.n_marks += 1
            elif opcode == TUPLE:
                self.push(self.pop_to_mark())
            elif opcode == TUPLE1 or opcode == TUPLE2 or opcode == TUPLE3:
                self.marks[self.n_marks] = self.height - (opcode - TUPLE1 + 1)
                self.n_marks += 1
                self.push(self.pop_to_mark())
            elif opcode == FROZENSET:
                self.push(frozenset(self.pop_to_mark()))
            elif opcode == APPEND:
                self.append_to((self.pop(),))
            elif opcode == APPENDS:
                self.append_to(self.pop_to_mark())
            elif opcode == SETITEM:
                value = self.pop()
                name = self.pop()
                self.set_in((name, value))
            elif opcode == SETITEMS:
                self.set_in(self.pop_to_mark())
            elif opcode == NEWOBJ:
                value = self.pop()
                self.push(new_object(self.pop(), value))
            elif opcode == REDUCE:
                value = self.pop()
                if not isinstance(value, tuple):
                    raise TypeError("argument list must be a tuple")
                self.push(self.pop()(*value))
            elif opcode == BUILD:
                self.build()
            elif opcode == FRAME:
                p += 8
            elif opcode == POP:
                self.pop()
            else:  # STOP
                return self.pop()


cdef object new_object(object cls, object args):
    cdef PyTypeObject* kind
    if not isinstance(cls, type):
        raise UnpicklingError("NEWOBJ class argument must be a type, not " + type(cls).__name__)
    if not isinstance(args, tuple):
        raise UnpicklingError("NEWOBJ expected an arg tuple.")
    kind = <PyTypeObject*>cls
    if kind.tp_new == NULL:
        raise UnpicklingError(f"NEWOBJ class argument '{cls.__name__}' has NULL tp_new")
    return kind.tp_new(kind, args, NULL)


cdef bint is_ours(bytes pickled) noexcept:
    return is_small(<const uint8_t*>PyBytes_AS_STRING(pickled), PyBytes_GET_SIZE(pickled))


def reads(bytes pickled not None):
    """Whether `loads` reads this pickle itself."""
    return is_ours(pickled)


def loads(pickled, *, buffers=None):
    """As ``pickle.loads``, which it calls for what is not `bytes`, has buffers, or is not small."""
    cdef Reading reading
    if buffers is not None or type(pickled) is not bytes or not is_ours(pickled):
        return stdlib_loads(pickled, buffers=buffers)
    reading = Reading.__new__(Reading)
    return reading.read(<const uint8_t*>PyBytes_AS_STRING(pickled))
