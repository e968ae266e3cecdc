"""The other end of the comm's benchmarks: answers requests over either comm, or over a bare socket.

    python comm_peer.py {native,tornado} [certificate.pem]

Prints the address of the comm and the port of the bare socket, then serves until it is killed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from typing import Any

import numpy as np
from distributed.comm import Comm, CommClosedError, listen
from distributed.protocol import to_serialize

from fastworker.comm import use

WORD = 8


def context(file: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    """For either end: the one certificate is its own authority."""
    made = ssl.create_default_context(purpose, cafile=file)
    made.check_hostname = False
    made.load_cert_chain(file)
    return made


async def answer(comm: Comm) -> None:
    arrays: dict[int, np.ndarray] = {}
    try:
        while True:
            message: dict[str, Any] = await comm.read()
            if message["op"] == "array":
                nbytes = message["nbytes"]
                if nbytes not in arrays:
                    arrays[nbytes] = np.ones(nbytes, "u1")
                await comm.write({"array": to_serialize(arrays[nbytes])})
            else:
                await comm.write({"status": "OK", "i": message["i"]})
    except CommClosedError:
        pass


def answer_bare(listening: socket.socket) -> None:
    """One word is a number of bytes, which are the answer."""
    sock, _ = listening.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data: dict[int, np.ndarray] = {}
    while word := sock.recv(WORD):
        nbytes = int.from_bytes(word, "little")
        if nbytes not in data:
            data[nbytes] = np.ones(nbytes, "u1")
        sock.sendall(data[nbytes].data)


async def main(which: str, certificate: str | None = None) -> None:
    use(which)
    bare = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=answer_bare, args=(bare,), daemon=True).start()
    if certificate:
        arguments = {"ssl_context": context(certificate, ssl.Purpose.CLIENT_AUTH)}
        listener = await listen("tls://127.0.0.1:0", answer, **arguments)
    else:
        listener = await listen("tcp://127.0.0.1:0", answer)
    print(listener.contact_address, bare.getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
