"""What ``fastworker doctor`` says about a process and its machine."""

from __future__ import annotations

import resource
from pathlib import Path

import dask
import pytest

from fastworker import comm
from fastworker.doctor import here
from fastworker.doctor.findings import Finding, found
from support.certificates import Authority


def only(findings):
    (finding,) = findings
    return finding


def test_all_is_well():
    findings = here.look()
    assert {finding.level for finding in findings} <= {"ok", "note"}
    assert [f.name for f in findings if f.name in ("versions", "compiled modules", "comm")] == [
        "versions",
        "compiled modules",
        "comm",
    ]
    for finding in findings:
        assert bool(finding.advice) == (finding.level != "ok"), finding


@pytest.mark.parametrize(
    "configured, level, text",
    [
        ({"fastworker.low-latency.burst": -1}, "problem", "fastworker.low-latency.burst"),
        ({"fastworker.worker.end-timeout": "soon"}, "problem", "fastworker.worker.end-timeout"),
        ({"fastworker.comm.max-frames": 0}, "problem", "fastworker.comm.max-frames"),
        ({"fastworker.comm.transport": "pigeon"}, "problem", "fastworker.comm.transport"),
        ({"fastworker.low-latency.brust": 3}, "note", "did you mean fastworker.low-latency.burst"),
    ],
)
def test_settings(configured, level, text):
    with dask.config.set(configured):
        finding = only(here.settings())
    assert finding.level == level
    assert text in finding.text


def test_another_comm():
    assert only(here.comm()).level == "ok"
    comm.use("tornado")
    try:
        assert only(here.comm()).level == "note"
    finally:
        comm.use("native")


def test_a_module_that_cannot_be_loaded(monkeypatch):
    def fail(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(here.importlib, "import_module", fail)
    finding = only(here.modules())
    assert (finding.level, "no fastworker." in finding.text) == ("problem", True)


def test_an_old_distributed(monkeypatch):
    monkeypatch.setattr(here.distributed, "__version__", "2024.1.0")
    assert only(here.versions()).level == "problem"


@pytest.mark.parametrize(
    "limits, in_use, level",
    [
        ((1024, 1 << 20), False, "ok"),
        ((1024, 1 << 20), True, "note"),
        ((1024, resource.RLIM_INFINITY), False, "ok"),
        ((1024, 4096), False, "note"),
    ],
)
def test_descriptors(monkeypatch, limits, in_use, level):
    monkeypatch.setattr(here.resource, "getrlimit", lambda which: limits)
    assert only(here.descriptors(in_use=in_use)).level == level


@pytest.mark.parametrize(
    "directory, level, text",
    [
        ("/dev/shm", "note", "stays in memory"),
        ("/dev/shm/not/there/yet", "note", "stays in memory"),
        ("/etc/passwd/below", "problem", "cannot be written to"),
    ],
)
def test_scratch(directory, level, text):
    finding = only(here.scratch(Path(directory)))
    assert (finding.level, text in finding.text) == (level, True), finding


def test_scratch_without_room(monkeypatch, tmp_path):
    monkeypatch.setattr(here, "LITTLE_ROOM", 1 << 80)
    monkeypatch.setattr(here, "_file_system", lambda directory: "ext4")
    assert "may fill it" in only(here.scratch(tmp_path)).text
    monkeypatch.setattr(here, "_file_system", lambda directory: "nfs4")
    assert "over the network" in only(here.scratch(tmp_path)).text


def test_tls(tmp_path):
    assert "not encrypted" in only(here.tls()).text
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert only(here.tls()).level == "problem"
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    good = {
        "distributed.comm.tls.ca-file": str(authority.ca_file),
        "distributed.comm.tls.worker.cert": str(cert),
        "distributed.comm.tls.worker.key": str(key),
    }
    with dask.config.set(good):
        assert only(here.tls()).level == "ok"
        with dask.config.set({"distributed.comm.tls.worker.key": "/not/there"}):
            finding = only(here.tls())
            assert (finding.level, "/not/there" in finding.text) == ("problem", True)
        with dask.config.set({"distributed.comm.tls.ca-file": "/etc/passwd"}):
            assert "CA /etc/passwd" in only(here.tls()).text


def test_a_check_that_fails_is_a_finding():
    def broken():
        yield Finding("one", "is lost with the rest")
        raise ZeroDivisionError("surprise")

    finding = only(found([broken]))
    assert (finding.name, finding.level) == ("broken", "note")
    assert "ZeroDivisionError: surprise" in finding.text
