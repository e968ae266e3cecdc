"""Sockets: connecting them, listening with them, and the handshake of TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

#: Seconds to give one address of a host before the next one is tried beside it.
HEAD_START = 0.3

_NUMBERS_ONLY = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

Address = tuple[socket.AddressFamily, Any]


async def connect_socket(host: str, port: int) -> socket.socket:
    """A connected, non-blocking socket, by the first of the host's addresses that answers.

    Raises OSError: the one of the address that was tried first.
    """
    addresses = await _resolve(host, port)
    if len(addresses) == 1:
        return await _connect_one(addresses[0])
    return await _connect_first(_alternating(addresses))


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        # Numbers need no thread of the resolver
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=_NUMBERS_ONLY)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """The same, IPv6 and IPv4 in turn, beginning with the kind that came first."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or others:
        mixed += first[:1] + others[:1]
        first, others = first[1:], others[1:]
    return mixed


async def _connect_one(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_first(addresses: Sequence[Address]) -> socket.socket:
    outcome = await _first_outcome(addresses)
    if isinstance(outcome, socket.socket):
        return outcome
    try:
        raise outcome
    finally:
        del outcome  # or the error would hold this frame, and the frame the error


async def _first_outcome(addresses: Sequence[Address]) -> socket.socket | BaseException:
    """Try one after the other, without waiting long for those that do not answer.

    The first socket that is connected, or the error of the first address.
    """
    attempts: list[asyncio.Task[socket.socket]] = []
    waiting: set[asyncio.Task[socket.socket]] = set()
    untried = list(addresses)
    winner: socket.socket | None = None
    try:
        while winner is None and (untried or waiting):
            if untried:
                attempt = asyncio.ensure_future(_connect_one(untried.pop(0)))
                attempts.append(attempt)
                waiting.add(attempt)
            done, waiting = await asyncio.wait(
                waiting,
                timeout=HEAD_START if untried else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                if winner is None and attempt.exception() is None:
                    winner = attempt.result()
    finally:
        for attempt in attempts:
            if not attempt.done():
                attempt.cancel()
            attempt.add_done_callback(lambda done: _close_loser(done, winner))
    if winner is not None:
        return winner
    error = attempts[0].exception()
    assert error is not None
    return error


def _close_loser(attempt: asyncio.Task[socket.socket], winner: socket.socket | None) -> None:
    if attempt.cancelled() or attempt.exception() is not None:
        return
    if attempt.result() is not winner:
        attempt.result().close()


async def encrypt(
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
) -> ssl.SSLSocket:
    """The socket after a TLS handshake. It is closed if that fails.

    Raises ssl.SSLError or another OSError.
    """
    try:
        encrypted = context.wrap_socket(
            sock,
            server_side=server_side,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        )
    except BaseException:
        sock.close()
        raise
    try:
        while (wants := _shake_hands(encrypted)) is not None:
            await _ready(encrypted, write=wants == "write")
        return encrypted
    except BaseException:
        encrypted.close()
        raise


def _shake_hands(sock: ssl.SSLSocket) -> str | None:
    """Go on with the handshake; what the socket has to be ready for next, None when it is done."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return "read"
    except ssl.SSLWantWriteError:
        return "write"
    return None


async def _ready(sock: socket.socket, *, write: bool) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    fd = sock.fileno()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    (loop.add_writer if write else loop.add_reader)(fd, wake)
    try:
        await future
    finally:
        (loop.remove_writer if write else loop.remove_reader)(fd)
