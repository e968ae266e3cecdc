"""``fastworker doctor`` as a process of its own, at clusters of both kinds of workers."""

from __future__ import annotations

import json
import subprocess
import sys

import distributed
import pytest

import fastworker
from fastworker.doctor.cluster import offset


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


def test_what_is_no_scheduler_file(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text("[]")
    done = doctor("--scheduler-file", str(file))
    assert done.returncode == 1
    assert f"--scheduler-file {file}: no file of a scheduler" in done.stderr


@pytest.mark.parametrize(
    "before, clock, after, off",
    [(10.0, 10.5, 11.0, 0.0), (10.0, 8.0, 11.0, 2.0), (10.0, 15.0, 11.0, 4.0)],
)
def test_offset_of_a_clock(before, clock, after, off):
    assert offset(before, clock, after) == off
