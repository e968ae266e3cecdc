"""dask-jobqueue starts fastworker's workers by its job scripts' command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client


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
        scheduler_options={"dashboard_address": None},
    ) as cluster:
        cluster.scale(jobs=2)
        with Client(cluster) as client:
            client.wait_for_workers(2, timeout=60)
            kinds = client.run(lambda dask_worker: type(dask_worker).__module__)
            assert set(kinds.values()) == {"fastworker.worker"}
            assert client.gather(client.map(pow, range(50), [2] * 50)) == [i * i for i in range(50)]
            cluster.scale(jobs=1)
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
