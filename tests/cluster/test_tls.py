"""Encrypted clusters, with certificates made for the test."""

from __future__ import annotations

import pytest
from distributed.security import Security

from support.certificates import Authority
from support.cluster.launcher import collect
from support.cluster.tasks import add, array_of, checksum, increment


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
    with launcher.client(scheduler, 3, security=security(authority)) as client:
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
    with launcher.client(scheduler, 1, security=security(authority)) as client:
        assert client.submit(increment, 1).result(timeout=30) == 2
        assert foreign.wait(timeout=30) != 0
        assert plain.wait(timeout=30) != 0
        assert len(client.nthreads()) == 1


def test_name_of_the_scheduler(launcher, authority):
    """The name that a worker asks a proxy in front of the scheduler for."""
    scheduler = launcher.scheduler("--protocol=tls", *options(authority, "scheduler"), env=ENCRYPT)
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--no-nanny", "--protocol=tls", "--scheduler-sni=scheduler.of.test"],
        *options(authority, "worker"),
    )
    with launcher.client(scheduler, 1, security=security(authority)) as client:

        def name(dask_worker):
            return dask_worker.connection_args["server_hostname"]

        assert list(client.run(name).values()) == ["scheduler.of.test"]
        assert client.submit(increment, 1).result(timeout=30) == 2
