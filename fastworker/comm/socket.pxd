"""Sockets without a detour through Python: the calls of the C library, retried where a signal came.

The functions return what the system call does; below 0, `errno` says why. They need no GIL.
"""

from libc.errno cimport EINTR, errno

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec* vector, int count)

cdef extern from "sys/socket.h" nogil:
    """
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* Python ignores SIGPIPE */
    #endif
    """
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t recv(int fd, void* where, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef enum:
    # Below this size a system call is over before another thread could have taken the GIL
    QUICK = 128 << 10


cdef inline ssize_t send_some(int fd, const void* data, size_t size) noexcept nogil:
    """Hand the kernel as many of these bytes as it takes at once."""
    cdef ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
    while sent < 0 and errno == EINTR:
        sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
    return sent


cdef inline ssize_t send_pieces(int fd, const msghdr* message) noexcept nogil:
    """The same for pieces that lie apart."""
    cdef ssize_t sent = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL)
    while sent < 0 and errno == EINTR:
        sent = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL)
    return sent
