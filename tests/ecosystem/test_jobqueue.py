"""dask-jobqueue starts fastworker's workers by its job scripts' command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client

from support.recipes import block

#: Each class of dask-jobqueue with what it does not do without.
CLASSES = {
    "HTCondorCluster": {"disk": "1 GB"},
    "LSFCluster": {},
    "MoabCluster": {},
    "OARCluster": {},
    "PBSCluster": {},
    "SGECluster": {},
    "SLURMCluster": {},
}


@pytest.mark.filterwarnings("ignore:OAR Job memory")
@pytest.mark.parametrize("name", CLASSES)
def test_job_scripts_of_the_recipe(name: str) -> None:
    """Of each batch system: the worker's command has the class, the scheduler has the lane."""
    jobqueue = pytest.importorskip("dask_jobqueue")

    def of_that_class(**options):
        options["scheduler_options"]["dashboard_address"] = None
        return getattr(jobqueue, name)(**options, **CLASSES[name])

    text = block("dask-jobqueue", "python").replace("from dask_jobqueue import SLURMCluster\n", "")
    names = {"SLURMCluster": of_that_class}
    exec(text, names)
    with names["cluster"] as cluster:
        script = cluster.job_script()
        assert " -m distributed.cli.dask_worker tcp://" in script
        assert "--worker-class fastworker.Worker" in script
        assert "fastworker-low-latency" in cluster.scheduler.plugins


@pytest.mark.slow
def test_workers_of_job_scripts(tmp_path: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue.local")
    with jobqueue.LocalCluster(
        cores=2,
        processes=1,
        memory="1 GB",
        local_directory=str(tmp_path),
        log_directory=str(tmp_path),
        worker_extra_args=["--worker-class", "fastworker.Worker"],
        scheduler_options={"dashboard_address": None, "preload": ["fastworker.scheduler"]},
    ) as cluster:
        assert "fastworker-low-latency" in cluster.scheduler.plugins
        cluster.scale(jobs=2)
        with Client(cluster) as client:
            client.wait_for_workers(2, timeout=60)
            kinds = client.run(lambda dask_worker: type(dask_worker).__module__)
            assert set(kinds.values()) == {"fastworker.worker"}
            assert client.gather(client.map(pow, range(50), [2] * 50)) == [i * i for i in range(50)]
            cluster.scale(jobs=1)
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
