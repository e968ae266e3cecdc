"""Which comm a process uses: configured, chosen, or another package's; the log says which."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import dask
import pytest
from distributed.comm import tcp as stock
from distributed.comm.registry import backends

from fastworker.comm import in_use, selection, use, use_configured
from fastworker.comm.backend import TCPBackend, TLSBackend
from fastworker.config import CommSettings, comm_choice


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.setattr(selection, "_chosen", False)
    before = dict(backends)
    backends.update(tcp=stock.TCPBackend(), tls=stock.TLSBackend())
    yield
    backends.clear()
    backends.update(before)


def test_use(caplog):
    with caplog.at_level(logging.DEBUG, logger="fastworker.comm"):
        use("native")
        assert type(backends["tcp"]) is TCPBackend
        assert type(backends["tls"]) is TLSBackend
        assert in_use() == {"tcp": "native", "tls": "native"}
        use("native")
        use("tornado")
    assert in_use() == {"tcp": "tornado", "tls": "tornado"}
    assert [r.message for r in caplog.records] == [
        "Comm for tcp:// and tls:// is native",
        "Comm for tcp:// and tls:// is tornado",
    ]
    with pytest.raises(ValueError, match="native and tornado"):
        use("ucx")


def test_native_is_the_default():
    assert comm_choice() == "native"
    use_configured()
    assert in_use() == {"tcp": "native", "tls": "native"}


@pytest.mark.parametrize("value", ["native", {"transport": "native"}])
def test_configured(value):
    with dask.config.set({"fastworker.comm": value}):
        use_configured()
    assert in_use()["tcp"] == "native"
    with dask.config.set({"fastworker.comm": "tornado"}):
        use_configured()
    assert in_use()["tcp"] == "tornado"


def test_what_was_chosen_stays():
    use("native")
    with dask.config.set({"fastworker.comm.transport": "tornado"}):
        use_configured()
    assert in_use() == {"tcp": "native", "tls": "native"}


def test_another_packages_backend_stays(caplog):
    class Mine(stock.TCPBackend):
        pass

    backends["tcp"] = Mine()
    with caplog.at_level(logging.DEBUG, logger="fastworker.comm"):
        use("native")
    assert type(backends["tcp"]) is Mine
    assert in_use()["tls"] == "native"
    assert "Mine" in in_use()["tcp"]
    assert any("stays" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fastworker.comm.max-frames", 0),
        ("fastworker.comm.max-frames", "many"),
        ("fastworker.comm.max-message-bytes", "many"),
        ("fastworker.comm.max-message-bytes", ""),  # Dask takes it for one byte
        ("fastworker.comm.max-message-bytes", "B"),
        ("fastworker.comm.stall-timeout", " "),
        ("fastworker.comm.stall-timeout", "1e400"),
        ("fastworker.comm.stall-timeout", "soon"),
        ("fastworker.comm.stall-timeout", 0),
        ("fastworker.comm.write-buffer", None),
        ("fastworker.comm.spare-memory", -1),
    ],
)
def test_bad_settings_are_named(key, value):
    with dask.config.set({key: value}):
        with pytest.raises(ValueError, match=key):
            CommSettings.load()


@pytest.mark.parametrize("key", ["fastworker.comm", "fastworker.comm.transport"])
def test_a_bad_choice_is_named(key):
    with dask.config.set({key: "ucx"}):
        with pytest.raises(ValueError, match=f"{key} must be native or tornado; got 'ucx'"):
            comm_choice()


def test_settings_without_limits():
    with dask.config.set(
        {"fastworker.comm.stall-timeout": None, "fastworker.comm.max-message-bytes": None}
    ):
        settings = CommSettings.load()
    assert settings.stall_timeout is None
    assert settings.max_message_bytes is None


def test_a_short_choice_leaves_the_limits_at_their_defaults():
    with dask.config.set({"fastworker.comm": "native"}):
        assert CommSettings.load().max_frames == 1 << 22


SCRIPT = """
    import asyncio, sys
    import dask, distributed
    import fastworker
    from fastworker.comm import in_use

    async def main():
        dask.config.set({"fastworker.comm.transport": sys.argv[1]})
        assert in_use()["tcp"] == "tornado"
        kind = getattr(fastworker, sys.argv[2])
        async with distributed.Scheduler(dashboard_address=None, host="127.0.0.1") as scheduler:
            stock_end = type(scheduler.listeners[0]).__module__
            async with kind(scheduler.address, nthreads=1) as worker:
                assert in_use() == {"tcp": sys.argv[1], "tls": sys.argv[1]}
                async with distributed.Client(
                    scheduler.address, asynchronous=True
                ) as client:
                    total = client.submit(sum, client.map(lambda i: i + 1, range(50)))
                    assert await total == 1275
                    where = await client.run(lambda: fastworker.comm.in_use()["tcp"])
                    assert list(where.values()) == [sys.argv[1]], where
        print("scheduler:", stock_end)

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["Worker", "Nanny"])
@pytest.mark.parametrize("which", ["native", "tornado"])
def test_scheduler_client_and_worker_in_one_process(tmp_path, kind, which):
    """The scheduler listens with stock's comm before the worker puts ours in place."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script), which, kind],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "scheduler: distributed.comm.tcp"
    assert "Comm for" not in done.stderr  # one such line for each worker would bury the others
