"""Certificates made for a test."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: What an authority's certificate is for.
ISSUES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority that lives as long as the test.

    ``ca_file`` is what its peers trust.
    """

    def __init__(self, directory: Path, name: str = "ours") -> None:
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key)
        self.ca_file = self._write("ca", self.certificate)

    def issue(self, subject: str = "peer", host: str = "127.0.0.1") -> tuple[Path, Path]:
        """The files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(subject, key, host)
        file = self._write(f"{subject}-{certificate.serial_number}", certificate)
        key_file = file.with_suffix(".key")
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return file, key_file

    def context(
        self, purpose: ssl.Purpose, host: str = "127.0.0.1", trusts: Authority | None = None
    ) -> ssl.SSLContext:
        """For one end: a certificate of this authority, trust in this or another one."""
        context = ssl.create_default_context(purpose, cafile=str((trusts or self).ca_file))
        context.load_cert_chain(*map(str, self.issue(host=host)))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def server(self, host: str = "127.0.0.1", trusts: Authority | None = None) -> ssl.SSLContext:
        return self.context(ssl.Purpose.CLIENT_AUTH, host, trusts)

    def client(self, host: str = "127.0.0.1", trusts: Authority | None = None) -> ssl.SSLContext:
        return self.context(ssl.Purpose.SERVER_AUTH, host, trusts)

    def _sign(
        self, subject: str, key: ec.EllipticCurvePrivateKey, host: str | None = None
    ) -> x509.Certificate:
        """For a host, or for an authority if there is none."""
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
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
            # Python 3.13 insists on these
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
        )
        if host is None:
            builder = builder.add_extension(ISSUES, critical=True)
        else:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.directory / f"{self.name}-{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path
