"""What must not be left behind: by processes that have ended, and in this one."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import psutil
from distributed.diskutils import WorkSpace
from fault_cluster import Cluster

SPACE = "dask-scratch-space"
SHARED_MEMORY = "/dev/shm"


class Surroundings:
    """What there is in this process and on this machine before an episode."""

    def __init__(self) -> None:
        self.threads = set(threading.enumerate())
        self.shared_memory = set(os.listdir(SHARED_MEMORY))

    def new(self) -> list[str]:
        """What there is besides, now that all processes of the episode have ended."""
        found = [f"thread {each.name}" for each in threading.enumerate() if self._is_new(each)]
        if names := set(os.listdir(SHARED_MEMORY)) - self.shared_memory:
            mapped = mappings()
            found += [path for name in names if (path := f"{SHARED_MEMORY}/{name}") not in mapped]
        return found

    def _is_new(self, thread: threading.Thread) -> bool:
        # Threads that are kept for what comes next, of which there are few
        return thread not in self.threads and not thread.name.startswith(
            ("Dask-Offload", "IO loop", "Profile", "asyncio_", "AsyncProcess")
        )


def mappings() -> set[str]:
    """The files that processes have mapped."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            found.update(each.path for each in process.memory_maps())
    return found


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
