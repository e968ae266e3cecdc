"""Methods of a worker that pass a call on to a part: a subclass may override each, and call it."""

from __future__ import annotations

import asyncio

import pytest
from distributed import Worker as StockWorker

import fastworker
from support.in_process import ONE_WORKER, cluster, gate, until


def that_notes_calls(worker_class):
    """A subclass that notes the names of the methods that are called, and of what it overrides."""

    class Noting(worker_class):
        called: set[str] = set()

        async def heartbeat(self):
            self.called.add("heartbeat")
            await super().heartbeat()

        def trigger_profile(self):
            self.called.add("trigger_profile")
            super().trigger_profile()

        def get_call_stack(self, keys=None):
            self.called.add("get_call_stack")
            return {"mine": [], **super().get_call_stack(keys=keys)}

        def digest_metric(self, name, value):
            self.called.add("digest_metric")
            super().digest_metric(name, value)

        def identity(self):
            return {"mine": 1, **super().identity()}

        def versions(self, packages=None):
            return {"mine": 1, **super().versions(packages=packages)}

        def start_http_server(self, *args, **kwargs):
            self.called.add("start_http_server")
            super().start_http_server(*args, **kwargs)

    return Noting


METHODS = {"heartbeat", "trigger_profile", "get_call_stack", "digest_metric", "start_http_server"}


@pytest.mark.parametrize("worker_class", [StockWorker, fastworker.Worker])
def test_a_subclass_overrides_what_a_part_does(worker_class):
    profiled = {"distributed.worker.profile.enabled": True}

    @cluster(nthreads=ONE_WORKER, Worker=that_notes_calls(worker_class), config=profiled)
    async def run(c, s, a):
        with gate(worker_class.__module__) as held:
            x = c.submit(held.pass_through, key="x")
            await until(held.entered.is_set)
            stacks = await c.call_stack(keys=["x"])
            assert set(stacks[a.address]) == {"mine", "x"}
            await until(lambda: a.called >= METHODS)
            await until(lambda: a.profile_recent["count"])
        await x
        assert a.digests_total["profile-duration"] > 0
        assert (await c.run(lambda dask_worker: dask_worker.identity()))[a.address]["mine"] == 1
        versions = await asyncio.wait_for(c.get_versions(), 20)
        assert versions["workers"][a.address]["mine"] == 1

    run()
