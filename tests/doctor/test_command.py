"""``fastworker doctor`` as a process of its own, at clusters of both kinds of workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import distributed.security
import pytest

import fastworker
from fastworker.doctor.cluster import _compared, offset


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastworker", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
    )


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def levels(findings):
    return {finding["name"]: finding["level"] for finding in findings}


def test_without_a_cluster():
    done = doctor()
    assert done.returncode == 0
    assert "compiled modules" in done.stdout
    assert "fastworker doctor tcp://" in done.stdout


def test_a_cluster_of_both_kinds(tmp_path):
    file = tmp_path / "scheduler.json"
    with distributed.LocalCluster(
        n_workers=1,
        dashboard_address=":0",
        worker_class=fastworker.Nanny,
        scheduler_kwargs={"scheduler_file": str(file)},
    ) as cluster:
        address = cluster.scheduler_address
        report = json.loads(doctor(address, "--json").stdout)
        assert levels(report["cluster"]) == {
            "versions": "ok",
            "workers": "ok",
            "low-latency lane": "note",
            "clocks": "ok",
        }
        (findings,) = report["workers"].values()
        assert levels(findings)["compiled modules"] == "ok"
        (scratch,) = [finding for finding in findings if finding["name"] == "scratch"]
        assert "dask-scratch-space" in scratch["text"]
        cluster.new_spec["cls"] = distributed.Nanny
        cluster.worker_spec["other"] = {**cluster.new_spec, "cls": distributed.Nanny}
        cluster.sync(cluster._correct_state)
        with distributed.Client(cluster) as client:
            client.wait_for_workers(2, timeout=60)
            client.register_plugin(fastworker.scheduler.LowLatency())
        done = doctor("--scheduler-file", str(file))
        assert done.returncode == 0, done.stdout
        text = unwrapped(done.stdout)
        kinds = f"1 of fastworker {fastworker.__version__}, comm native; 1 of distributed's own"
        assert kinds in text
        assert "low-latency lane in the scheduler" in text
        assert "1 of 1 without a note or a problem" in text


def test_nothing_answers():
    done = doctor("tcp://127.0.0.1:1", "--timeout", "1")
    assert done.returncode == 1
    assert "Connection refused" in unwrapped(done.stdout)
    assert "Traceback" not in done.stdout + done.stderr


def test_an_unknown_host():
    done = doctor("tcp://no.such.host.invalid:8786", "--timeout", "1")
    assert done.returncode == 1
    assert "none answers at tcp://no.such.host.invalid:8786" in unwrapped(done.stdout)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("address", ["pigeon://coop", "tcp:// 10.0.0.1"])
def test_what_is_no_address(address):
    done = doctor(address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {address!r} is no address of a scheduler")


@pytest.mark.parametrize("text", ["[]", "{}", "no", '{"address": 5}', '{"address": null}'])
def test_what_is_no_scheduler_file(tmp_path, text):
    file = tmp_path / "scheduler.json"
    file.write_text(text)
    done = doctor("--scheduler-file", str(file))
    assert done.returncode == 1
    assert f"--scheduler-file {file}: no scheduler wrote it" in done.stderr


def test_both_an_address_and_a_file(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text("{}")
    assert "not both" in doctor("tcp://127.0.0.1:1", "--scheduler-file", str(file)).stderr


@pytest.mark.parametrize("timeout", ["0", "-1", "nan"])
def test_what_is_no_timeout(timeout):
    done = doctor("tcp://127.0.0.1:1", f"--timeout={timeout}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: --timeout {timeout}: expected seconds")


def test_tls_without_certificates():
    done = doctor("tls://127.0.0.1:1", "--timeout", "1")
    assert done.returncode == 1
    assert "is TLS configured?" in unwrapped(done.stdout)
    assert "Traceback" not in done.stdout + done.stderr


def test_a_server_that_speaks_another_protocol():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        done = doctor(address, "--timeout", "1")
    assert done.returncode == 1
    assert f"none answers at {address}: no answer within 1 s" in unwrapped(done.stdout)


def test_with_certificates_and_a_hanging_worker(tmp_path):
    security = distributed.security.Security.temporary()
    files = {}
    for name, pem in (
        ("--tls-ca-file", security.tls_ca_file),
        ("--tls-cert", security.tls_client_cert),
        ("--tls-key", security.tls_client_key),
    ):
        files[name] = tmp_path / name
        files[name].write_text(pem)
    with fastworker.LocalCluster(n_workers=2, dashboard_address=":0", security=security) as cluster:
        nannies = list(cluster.workers.values())
        options = [str(part) for pair in files.items() for part in pair]
        worker = nannies[0].worker_address
        report = json.loads(doctor(worker, "--json", *options).stdout)
        (finding,) = report["cluster"]
        assert f"its scheduler is {cluster.scheduler_address}" in finding["text"]
        os.kill(nannies[0].pid, signal.SIGSTOP)
        try:
            done = doctor(cluster.scheduler_address, "--timeout", "3", *options)
        finally:
            os.kill(nannies[0].pid, signal.SIGCONT)
        assert done.returncode == 0, done.stdout
        assert f"cannot be looked at: no answer within 3 s ({worker})" in unwrapped(done.stdout)
        assert "1 of 2 without a note or a problem" in unwrapped(done.stdout)


@pytest.mark.parametrize(
    "before, clock, after, off",
    [(10.0, 10.5, 11.0, 0.0), (10.0, 8.0, 11.0, 2.0), (10.0, 15.0, 11.0, 4.0)],
)
def test_offset_of_a_clock(before, clock, after, off):
    assert offset(before, clock, after) == off


@pytest.mark.parametrize(
    "package, here, there, level",
    [
        ("python", "3.11.7.final.0", "3.11.8.final.0", "note"),
        ("python", "3.11.7.final.0", "3.12.1.final.0", "problem"),
        ("distributed", "2026.8.0", "2026.7.1", "problem"),
        ("numpy", "1.26.0", "2.1.0", "note"),
        ("numpy", "2.1.0", None, "note"),
    ],
)
def test_versions_that_differ(package, here, there, level):
    same = {"packages": {"distributed": "2026.8.0", package: here}}
    other = {"packages": {"distributed": "2026.8.0", package: there}}
    answer = {"scheduler": same, "client": same, "workers": {"tcp://w:1": other, "tcp://w:2": None}}
    (finding,) = _compared(answer)
    assert (finding.level, package in finding.text, "tcp://w:1" in finding.text) == (
        level,
        True,
        True,
    )
