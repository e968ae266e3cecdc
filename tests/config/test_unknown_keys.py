"""Keys below ``fastworker:`` that mean nothing, however they were set."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import dask
import pytest
from distributed.utils_test import captured_logger, gen_cluster

import fastworker
from fastworker.config import DEFAULTS, unknown_keys
from fastworker.config.unknown_keys import warn_of_unknown_keys


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(unknown_keys, "_warned", set())


def warnings_with(config):
    with dask.config.set(config), captured_logger("fastworker.config") as log:
        warn_of_unknown_keys()
        warn_of_unknown_keys()
    return log.getvalue().splitlines()


@pytest.mark.parametrize(
    "key, nearest",
    [
        ("max-frame", "fastworker.comm.max-frames"),
        ("low-latency.brust", "fastworker.low-latency.burst"),
        ("low_latency.queue_dept", "fastworker.low-latency.queue-depth"),
        ("lowlatency", "fastworker.low-latency"),
        ("comm.burst", "fastworker.low-latency.burst"),
    ],
)
def test_the_nearest_key_is_named_once(key, nearest):
    (line,) = warnings_with({f"fastworker.{key}": 3})
    assert "There is no fastworker." in line
    assert line.endswith(f"did you mean {nearest}?")


def test_nothing_like_it():
    assert warnings_with({"fastworker.xyzzy": "secret"}) == [
        "There is no fastworker.xyzzy in Dask's configuration; it is ignored"
    ]


@pytest.mark.parametrize(
    "config",
    [
        DEFAULTS,
        {"fastworker.low_latency.queue_depth": 3, "fastworker.low-latency.queue-work": "1 s"},
        {"fastworker.comm": "tornado"},
        {"fastworker.comm": None},
        {"fastworker": None},
    ],
)
def test_what_is_right_is_not_complained_of(config):
    assert warnings_with(config) == []


@pytest.mark.parametrize("section", ["fastworker", "fastworker.comm", "fastworker.low-latency"])
def test_no_section_where_one_belongs(section):
    (line,) = warnings_with({section: ["secret"]})
    assert line.startswith(f"{section} in Dask's configuration is ignored: it has to be a section")
    assert line.endswith("of type list") and "secret" not in line


@gen_cluster(nthreads=[], timeout=60)
async def test_a_worker_warns(scheduler):
    with dask.config.set({"fastworker.max-frame": 3}), captured_logger("fastworker.config") as log:
        for _ in range(2):
            async with fastworker.Worker(scheduler.address):
                pass
    assert log.getvalue().count("max-frame ") == 1


def in_a_process(config, tmp_path, script, **env):
    (tmp_path / "dask.yaml").write_text(textwrap.dedent(config))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "DASK_CONFIG": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout, done.stderr


SCRIPT = """
    from fastworker.config.unknown_keys import warn_of_unknown_keys
    from fastworker.config import comm_choice
    warn_of_unknown_keys()
    print(comm_choice())
"""


def test_in_a_file_and_in_the_environment(tmp_path):
    """Dask puts our defaults in the place of what is no section, before fastworker can look."""
    config = "fastworker: {max-frame: 3, comm: [1], low-latency: slow}"
    out, err = in_a_process(config, tmp_path, SCRIPT, DASK_FASTWORKER__COM="tornado")
    assert out == "native\n"
    lines = [line for line in err.splitlines() if "fastworker.config - WARNING" in line]
    assert [any(key in line for line in lines) for key in ("max-frame ", "com ")] == [True] * 2
    assert sum("comm in Dask's configuration is ignored" in line for line in lines) == 1
    assert sum("low-latency in Dask's configuration is ignored" in line for line in lines) == 1
    assert len(lines) == 4


def test_the_comm_in_short(tmp_path):
    """The one word that may stand in the place of a section."""
    for config, env in (
        ("fastworker: {comm: tornado}", {}),
        ("", {"DASK_FASTWORKER__COMM": "tornado"}),
    ):
        assert in_a_process(config, tmp_path, SCRIPT, **env)[0] == "tornado\n"
