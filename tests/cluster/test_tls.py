"""Encrypted clusters, with certificates made for the test."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cluster_launcher import START_TIMEOUT, collect
from cluster_tasks import add, array_of, checksum, increment
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client
from distributed.security import Security


class Authority:
    """A certificate authority that lives as long as the test."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._certificate(name, self.key, ca=True)
        self.ca_file = self._write(f"{name}-ca.pem", self._pem(self.certificate))

    def issue(self, subject: str) -> tuple[Path, Path]:
        """The files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(subject, key, ca=False)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return (
            self._write(f"{self.name}-{subject}-cert.pem", self._pem(certificate)),
            self._write(f"{self.name}-{subject}-key.pem", private),
        )

    def _certificate(self, subject: str, key: ec.EllipticCurvePrivateKey, ca: bool):
        now = datetime.datetime.now(datetime.timezone.utc)

        def named(text):
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
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _pem(self, certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path


def security(authority: Authority) -> Security:
    cert, key = authority.issue("client")
    return Security(
        tls_ca_file=str(authority.ca_file),
        tls_client_cert=str(cert),
        tls_client_key=str(key),
        require_encryption=True,
    )


def options(authority: Authority, role: str) -> list[str]:
    cert, key = authority.issue(role)
    return [f"--tls-ca-file={authority.ca_file}", f"--tls-cert={cert}", f"--tls-key={key}"]


ENCRYPT = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


def test_encrypted_cluster(launcher, authority):
    launcher.env = ENCRYPT
    scheduler = launcher.scheduler("--protocol=tls", *options(authority, "scheduler"))
    assert scheduler.address.startswith("tls://")
    for kind, nanny in [
        ("fastworker", "--no-nanny"),
        ("worker-class", "--nanny"),
        ("stock", "--no-nanny"),
    ]:
        arguments = ["--nthreads=1", nanny, "--protocol=tls", *options(authority, kind)]
        launcher.worker(scheduler.address, *arguments, kind=kind)
    with Client(scheduler.address, security=security(authority), timeout=START_TIMEOUT) as client:
        launcher.await_workers(client, 3)
        addresses = list(client.nthreads())
        assert all(address.startswith("tls://") for address in addresses)
        total = client.submit(add, *client.map(increment, range(200)))
        assert total.result(timeout=30) == sum(range(1, 201))
        # Megabytes go from each worker to each other one.
        for source in addresses:
            array = client.submit(array_of, 6, 1, workers=source, pure=False)
            found = [
                client.submit(checksum, array, workers=target, pure=False) for target in addresses
            ]
            assert collect(client, found) == [checksum(array_of(6, 1))] * 3


def test_strangers_are_refused(launcher, authority, tmp_path):
    """A worker of another authority and one without any cannot join; one of ours can."""
    stranger = Authority(tmp_path, "theirs")
    scheduler = launcher.scheduler("--protocol=tls", *options(authority, "scheduler"), env=ENCRYPT)
    common = ["--nthreads=1", "--no-nanny", "--death-timeout=4"]
    foreign = launcher.worker(
        scheduler.address, *common, "--protocol=tls", *options(stranger, "worker")
    )
    plain = launcher.worker(scheduler.address.replace("tls://", "tcp://"), *common)
    launcher.worker(scheduler.address, *common, "--protocol=tls", *options(authority, "worker"))
    with Client(scheduler.address, security=security(authority), timeout=START_TIMEOUT) as client:
        launcher.await_workers(client, 1)
        assert client.submit(increment, 1).result(timeout=30) == 2
        assert foreign.wait(timeout=30) != 0
        assert plain.wait(timeout=30) != 0
        assert len(client.nthreads()) == 1
