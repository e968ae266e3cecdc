"""What must not be left behind: by processes that have ended, and in this one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from distributed.diskutils import WorkSpace

from support.faults.cluster import Cluster
from support.faults.preload import semaphore_prefix

SPACE = "dask-scratch-space"
SHARED_MEMORY = "/dev/shm"


class Surroundings:
    """The threads of this process before an episode."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())

    def new(self) -> list[str]:
        """Those that there are besides, now that all processes of the episode have ended."""
        return [f"thread {each.name}" for each in threading.enumerate() if self._is_new(each)]

    def _is_new(self, thread: threading.Thread) -> bool:
        # Threads that are kept for what comes next, of which there are few
        return thread not in self.threads and not thread.name.startswith(
            ("Dask-Offload", "IO loop", "Profile", "asyncio_", "AsyncProcess")
        )


def left_by_processes(cluster: Cluster) -> list[str]:
    """Processes, files and directories of an episode whose cluster has ended."""
    found = [
        f"process {each.pid}: {' '.join(each.cmdline())[:200]}" for each in cluster.processes()
    ]
    # multiprocessing removes its directory when its process ends, unless that is killed.
    names = [path.name for path in cluster.temporary.iterdir()]
    killed = [name for name in names if name.startswith("pymp-")]
    found += [f"in TMPDIR: {name}" for name in names if name not in (*killed, SPACE)]
    if len(killed) > cluster.hard_deaths:
        found.append(f"in TMPDIR: {killed}, where {cluster.hard_deaths} were killed")
    found += left_directories(cluster)
    # Other programs on this machine have semaphores too, and may leave them
    prefix = f"sem.{semaphore_prefix(cluster.mark)}-"
    found += [f"{SHARED_MEMORY}/{n}" for n in os.listdir(SHARED_MEMORY) if n.startswith(prefix)]
    return found


def left_directories(cluster: Cluster) -> list[str]:
    """Directories of workers: killed ones leave theirs, for the next worker there to remove."""
    # The scheduler's is in TMPDIR
    parents = [cluster.temporary, *cluster.directory.glob("scratch-*")]
    spaces = [path / SPACE for path in parents if (path / SPACE).exists()]
    left = [path for space in spaces for path in space.iterdir() if path.is_dir()]
    if len(left) > cluster.hard_deaths:
        listed = [f"{path}: {len(os.listdir(path))} files" for path in left]
        return [f"directories {listed}, where {cluster.hard_deaths} were killed"]
    found = []
    for space in spaces:
        WorkSpace(str(space))._purge_leftovers()
        rest = {path.name for path in space.iterdir()} - {"global.lock", "purge.lock"}
        found += [f"{space / name} cannot be purged" for name in sorted(rest)]
    return found


def new_files(directory: Path, known: tuple[str, ...]) -> list[str]:
    """Files in the processes' working directory that the harness has not made."""
    return [path.name for path in directory.iterdir() if not path.name.startswith(known)]
