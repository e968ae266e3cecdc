"""Two ends of a connection, each of either make, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.comm import Comm, connect, listen
from distributed.comm import tcp as stock
from distributed.comm.registry import backends

from fastworker.comm import backend as native

TIMEOUT = 30.0
"""Seconds after which what does not happen is an error."""

BACKENDS: dict[str, dict[str, type]] = {
    "native": {"tcp": native.TCPBackend, "tls": native.TLSBackend},
    "tornado": {"tcp": stock.TCPBackend, "tls": stock.TLSBackend},
}
MAKES = list(BACKENDS)


def run(test: Coroutine[Any, Any, Any], timeout: float = TIMEOUT) -> Any:
    """Run a coroutine in an event loop of its own, for a bounded time."""
    return asyncio.run(asyncio.wait_for(test, timeout))


@contextlib.contextmanager
def registered(make: str):
    """``tcp://`` and ``tls://`` are of this make, for what is made in between."""
    before = {scheme: backends[scheme] for scheme in ("tcp", "tls")}
    backends.update({scheme: kind() for scheme, kind in BACKENDS[make].items()})
    try:
        yield
    finally:
        backends.update(before)


async def listening(make: str, handle: Callable[[Comm], Any], address: str = "", **kwargs: Any):
    """A started listener."""
    with registered(make):
        return await listen(address or "tcp://127.0.0.1:0", handle, **kwargs)


async def connected(make: str, address: str, **kwargs: Any) -> Comm:
    with registered(make):
        return await connect(address, timeout=TIMEOUT, **kwargs)


@contextlib.asynccontextmanager
async def pair(
    here: str = "native",
    there: str = "native",
    address: str = "tcp://127.0.0.1:0",
    listen_args: dict[str, Any] | None = None,
    connect_args: dict[str, Any] | None = None,
    **kwargs: Any,
) -> AsyncIterator[tuple[Comm, Comm]]:
    """The end that connected (``here``) and the one that was connected to (``there``)."""
    accepted: asyncio.Queue[Comm] = asyncio.Queue()
    listener = await listening(there, accepted.put, address, **(listen_args or {}), **kwargs)
    try:
        near = await connected(here, listener.contact_address, **(connect_args or {}), **kwargs)
        far = await asyncio.wait_for(accepted.get(), TIMEOUT)
        try:
            yield near, far
        finally:
            near.abort()
            far.abort()
    finally:
        listener.stop()


class Authority:
    """A certificate authority that lives as long as the test."""

    def __init__(self, directory: Path, name: str = "ours") -> None:
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, ca=True, host="127.0.0.1")
        self.ca_file = directory / f"{name}-ca.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def context(
        self, purpose: ssl.Purpose, host: str = "127.0.0.1", trusts: Authority | None = None
    ) -> ssl.SSLContext:
        """For one end: a certificate of this authority, trust in this or another one."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign("peer", key, ca=False, host=host)
        file = self.directory / f"{self.name}-{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.create_default_context(purpose, cafile=str((trusts or self).ca_file))
        context.load_cert_chain(str(file))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def server(self, **kwargs: Any) -> ssl.SSLContext:
        return self.context(ssl.Purpose.CLIENT_AUTH, **kwargs)

    def client(self, **kwargs: Any) -> ssl.SSLContext:
        return self.context(ssl.Purpose.SERVER_AUTH, **kwargs)

    def _sign(self, subject: str, key: ec.EllipticCurvePrivateKey, ca: bool, host: str):
        now = datetime.datetime.now(datetime.timezone.utc)

        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def tls(authority: Authority) -> dict[str, Any]:
    """What `pair` needs for TLS."""
    return {
        "address": "tls://127.0.0.1:0",
        "listen_args": {"ssl_context": authority.server()},
        "connect_args": {"ssl_context": authority.client()},
    }
