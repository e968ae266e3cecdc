"""What distributed's registry of comms asks for: connectors, listeners, functions of addresses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import dask.config
from distributed.comm import tcp as stock
from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import (
    BaseListener,
    Comm,
    CommClosedError,
    Connector,
    FatalCommClosedError,
)
from distributed.comm.utils import ensure_concrete_host
from distributed.system import MEMORY_LIMIT
from tornado.netutil import bind_sockets

from fastworker.comm.sockets import connect_socket, encrypt
from fastworker.comm.stream import Stream
from fastworker.comm.tcp import TCP, TLS
from fastworker.config import CommSettings
from fastworker.config.logs import get_logger

logger = logging.getLogger("distributed.comm.tcp")
own_logger = get_logger("comm")  # for what distributed has no line for

#: How often to look for another free port if the one that the system chose is taken already.
BIND_ATTEMPTS = 5

#: Connections accepted before other callbacks of the event loop get their turn.
ACCEPTED_AT_ONCE = 128

#: Seconds without new connections when the process has no file descriptor left for one.
ACCEPT_PAUSE = 1.0

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Plain:
    """What sets ``tcp://`` apart; see _Encrypted."""

    prefix: ClassVar[str] = "tcp://"
    comm_class: ClassVar[type[TCP]] = TCP
    encrypted: ClassVar[bool] = False


class _Encrypted:
    prefix: ClassVar[str] = "tls://"
    comm_class: ClassVar[type[TCP]] = TLS
    encrypted: ClassVar[bool] = True


class _Encryption(stock.RequireEncryptionMixin):
    """Connection arguments that have to do with encryption."""

    prefix: ClassVar[str]
    encrypted: ClassVar[bool]

    def check(self, address: str, arguments: dict[str, Any]) -> ssl.SSLContext | None:
        """The context for TLS; None for a plain connection.

        Raises RuntimeError if an encrypted connection is required, and TypeError if there is no
        context for one.
        """
        self._check_encryption(address, arguments)
        if not self.encrypted:
            return None
        context = arguments.get("ssl_context")
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"{self.prefix} takes an `ssl_context` of type ssl.SSLContext, not {context!r}; "
                "is TLS configured? See https://distributed.dask.org/en/latest/tls.html"
            )
        return context


def make_stream(sock: socket.socket, peer: str, settings: CommSettings) -> Stream:
    """A stream with the limits of the configuration."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit = settings.max_message_bytes
    return Stream(
        asyncio.get_running_loop(),
        sock,
        settings.max_frames,
        MEMORY_LIMIT if limit is None else limit,
        peer,
        settings.stall_timeout or 0.0,
    )


class _Connector(Connector, _Encryption):
    comm_class: ClassVar[type[TCP]]

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> Comm:
        """A comm to ``host:port``.

        Raises CommClosedError if no listener answers, FatalCommClosedError if another attempt
        cannot succeed, as with certificates that do not match.
        """
        context = self.check(address, connection_args)
        host, port = parse_host_port(address)
        try:
            sock = await connect_socket(host, port)
            if context is not None:
                name = connection_args.get("server_hostname") or host
                sock = await encrypt(sock, context, server_side=False, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise FatalCommClosedError(
                f"the TLS certificate of {self.prefix}{address} does not match: {error}; check "
                "your security settings, see https://distributed.dask.org/en/latest/tls.html"
            ) from error
        except ssl.SSLError as error:
            raise FatalCommClosedError(f"no TLS with {self.prefix}{address}: {error}") from error
        except OSError as error:
            raise CommClosedError(
                f"in {self}: {type(error).__name__}: {error}; connecting to {self.prefix}{address}"
            ) from error
        comm = make_comm(self, sock, self.prefix + address, deserialize, CommSettings.load())
        comm.asks = True
        return comm

    def __repr__(self) -> str:
        return f"<{type(self).__name__} native>"


def make_comm(
    end: _Connector | _Listener,
    sock: socket.socket,
    peer: str,
    deserialize: bool,
    settings: CommSettings,
) -> TCP:
    """The comm of one end of a connection; the socket is closed if it has gone already."""
    try:
        local = end.prefix + unparse_host_port(*sock.getsockname()[:2])
        stream = make_stream(sock, peer, settings)
    except OSError as error:
        sock.close()
        raise CommClosedError(f"{peer} has gone: {error}") from error
    return end.comm_class(stream, local, peer, deserialize, settings)


class TCPConnector(_Plain, _Connector):
    """Connects to ``tcp://`` addresses."""


class TLSConnector(_Encrypted, _Connector):
    """Connects to ``tls://`` addresses."""


class _Listener(BaseListener, _Encryption):
    comm_class: ClassVar[type[TCP]]

    def __init__(
        self,
        address: str,
        comm_handler: Callable[[Comm], Awaitable[None]],
        deserialize: bool = True,
        allow_offload: bool = True,
        default_host: str | None = None,
        default_port: int = 0,
        **connection_args: Any,
    ) -> None:
        super().__init__()
        self.context = self.check(address, connection_args)
        self.ip, self.port = parse_host_port(address, default_port)
        self.comm_handler = comm_handler
        self.deserialize = deserialize
        self.allow_offload = allow_offload
        self.default_host = default_host
        self.settings = CommSettings.load()
        self._sockets: list[socket.socket] | None = None
        self._address: tuple[str, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        where = self.prefix + unparse_host_port(*self._address) if self._address else "not started"
        return f"<{type(self).__name__} native {where}>"

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._sockets = self._bind()
        for sock in self._sockets:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._accept, sock)
        self.get_host_port()

    def _bind(self) -> list[socket.socket]:
        backlog = int(dask.config.get("distributed.comm.socket-backlog"))
        for attempts_left in reversed(range(BIND_ATTEMPTS)):
            with contextlib.suppress(_PortTaken):
                return _bind_once(self.ip, self.port, backlog, last=attempts_left == 0)
        raise AssertionError("the last attempt either binds or raises")

    def stop(self) -> None:
        """Stop listening. Existing connections stay open."""
        sockets, self._sockets = self._sockets, None
        for sock in sockets or ():
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(sock.fileno())
            sock.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._pause(listening, error)
                return
            sock.setblocking(False)
            assert self._loop is not None
            task = self._loop.create_task(self._serve(sock, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Leave new connections to the backlog for a while."""
        own_logger.error("%r cannot accept connections: %s", self, error)
        assert self._loop is not None
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(ACCEPT_PAUSE, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if self._sockets is not None and listening in self._sockets:
            assert self._loop is not None
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    async def _serve(self, sock: socket.socket, address: Any) -> None:
        peer = self.prefix + unparse_host_port(*address[:2])
        try:
            comm = await self._handshake(sock, peer)
        except (OSError, asyncio.TimeoutError) as error:
            logger.info("Connection from %s closed before handshake completed: %s", peer, error)
            return
        if comm is None:
            return
        try:
            await self.comm_handler(comm)
        except CommClosedError:
            logger.info("Connection from %s closed", peer, exc_info=True)
        except Exception:
            own_logger.exception("Error while serving %s", peer)

    async def _handshake(self, sock: socket.socket, peer: str) -> TCP | None:
        if self.context is not None:
            try:
                sock = await asyncio.wait_for(
                    encrypt(sock, self.context, server_side=True), self.settings.stall_timeout
                )
            except (OSError, asyncio.TimeoutError) as error:
                logger.warning(
                    "%r: TLS handshake failed with remote %s: %s",
                    self,
                    peer,
                    error or type(error).__name__,
                )
                return None
        if self._sockets is None:
            # `stop` ran meanwhile, so it would miss a comm that is made now
            sock.close()
            return None
        logger.debug("Incoming connection from %r to %r", peer, self.contact_address)
        comm = make_comm(self, sock, peer, self.deserialize, self.settings)
        comm.allow_offload = self.allow_offload
        assert comm.stream is not None
        comm.stream.expect_message()
        try:
            await self.on_connection(comm)
        except BaseException:
            comm.abort()
            raise
        return comm

    def get_host_port(self) -> tuple[str, int]:
        """Where it listens; with both kinds of IP, the address of IPv4.

        Raises ValueError if it does not.
        """
        if self._sockets is None:
            raise ValueError(f"invalid operation on non-started {type(self).__name__}")
        if self._address is None:
            first = sorted(self._sockets, key=lambda sock: sock.family != socket.AF_INET)[0]
            self._address = first.getsockname()[:2]
        return self._address

    @property
    def listen_address(self) -> str:
        """The address it listens on; a client may be unable to connect to it (``0.0.0.0``)."""
        host, port = self.get_host_port()
        return f"{self.prefix}{unparse_host_port(host, port)}"

    @property
    def contact_address(self) -> str:
        """The address that clients connect to."""
        host, port = self.get_host_port()
        host = ensure_concrete_host(host, default_host=self.default_host)
        return f"{self.prefix}{unparse_host_port(host, port)}"


class _PortTaken(Exception):
    """The port that the system chose for IPv4 is not free for IPv6; it will choose another."""


def _bind_once(ip: str, port: int, backlog: int, *, last: bool) -> list[socket.socket]:
    try:
        bound: list[socket.socket] = bind_sockets(port, address=ip, backlog=backlog)
    except OSError as error:
        if port or last or error.errno != errno.EADDRINUSE:
            raise
        raise _PortTaken from error
    return bound


class TCPListener(_Plain, _Listener):
    """Listens on a ``tcp://`` address."""


class TLSListener(_Encrypted, _Listener):
    """Listens on a ``tls://`` address."""


class TCPBackend(stock.BaseTCPBackend):
    """``tcp://``; addresses are read as distributed reads them."""

    _connector_class = TCPConnector
    _listener_class = TCPListener


class TLSBackend(stock.BaseTCPBackend):
    """``tls://``; addresses are read as distributed reads them."""

    _connector_class = TLSConnector
    _listener_class = TLSListener
