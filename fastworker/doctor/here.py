"""Checks of the process that calls them, and of its machine: the client's, or a worker's."""

from __future__ import annotations

import importlib
import os
import platform
import resource
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dask
import distributed
import psutil
from dask.system import CPU_COUNT
from dask.utils import format_bytes
from distributed.system import MEMORY_LIMIT

import fastworker
from fastworker.comm import in_use, use_configured
from fastworker.config.settings import CommSettings, check_worker_settings
from fastworker.config.unknown_keys import complaints
from fastworker.config.versions import OLDEST, is_too_old
from fastworker.doctor.findings import Finding, found
from fastworker.scheduler.settings import LowLatencySettings

#: Descriptors below which a worker of a large cluster may run out of them.
FEW_DESCRIPTORS = 4096

#: Free bytes of a scratch directory below which spilling soon fails.
LITTLE_ROOM = 1 << 30

IN_MEMORY = {"tmpfs", "ramfs"}
OVER_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs"}


def look(dask_worker: distributed.Worker | None = None) -> list[Finding]:
    """All findings about this process and this machine.

    ``client.run`` passes the worker that is asked.
    """
    directory = dask_worker.local_directory if dask_worker else _default_scratch()
    return found(
        [
            *(versions, modules, comm, settings, processors, memory),
            partial(descriptors, in_use=dask_worker is not None),
            partial(scratch, Path(directory)),
            *(tls, crashes),
        ]
    )


def _default_scratch() -> str:
    """Where a worker that is started here puts its directory."""
    return dask.config.get("temporary-directory") or tempfile.gettempdir()


def versions() -> Iterator[Finding]:
    text = (
        f"fastworker {fastworker.__version__}, distributed {distributed.__version__}, "
        f"dask {dask.__version__}, {platform.python_implementation()} {platform.python_version()}"
    )
    if is_too_old(distributed.__version__):
        yield Finding("versions", text, "problem", f"install distributed {OLDEST} or newer")
    else:
        yield Finding("versions", text)


def modules() -> Iterator[Finding]:
    """The compiled modules: a source of each is in the package."""
    package = Path(fastworker.__file__).parent
    names = [
        ".".join(("fastworker", *source.relative_to(package).with_suffix("").parts))
        for source in sorted(package.rglob("*.pyx"))
    ]
    broken = {name: why for name in names if (why := _why_not_loaded(name))}
    if broken:
        name, why = next(iter(broken.items()))
        yield Finding(
            "compiled modules",
            f"{len(broken)} of {len(names)} cannot be loaded, such as {name}: {why}",
            "problem",
            "install fastworker again, for this Python; a source tree needs "
            "'python setup.py build_ext --inplace'",
        )
    else:
        yield Finding("compiled modules", f"{len(names)}, all loaded")


def _why_not_loaded(name: str) -> str:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return ""


def comm() -> Iterator[Finding]:
    """What a worker in this process uses, or would use."""
    try:
        use_configured()
    except ValueError:
        return  # `settings` says so
    kinds = in_use()
    text = ", ".join(f"{scheme}: {kind}" for scheme, kind in kinds.items())
    if set(kinds.values()) == {"native"}:
        yield Finding("comm", text)
    else:
        yield Finding(
            "comm",
            text,
            "note",
            "fastworker.comm.transport: native, or comm.use('native'), for fastworker's own",
        )


def settings() -> Iterator[Finding]:
    """What stands under ``fastworker:`` in Dask's configuration."""
    readers: tuple[Callable[[], object], ...] = (
        use_configured,
        CommSettings.load,
        check_worker_settings,
        LowLatencySettings.load,
    )
    wrong = [error for read in readers if (error := _error_of(read))]
    for text in dict.fromkeys(wrong):
        yield Finding("settings", text, "problem", "correct it in Dask's configuration")
    unknown = complaints()
    for text in unknown:
        yield Finding("settings", text, "note", "correct or remove it in Dask's configuration")
    if not wrong and not unknown:
        yield Finding("settings", "those under 'fastworker' are known and valid")


def _error_of(read: Callable[..., object], *arguments: object) -> str:
    try:
        read(*arguments)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def processors() -> Iterator[Finding]:
    there = os.cpu_count()
    limit = "" if there == CPU_COUNT else f", of {there} of the machine"
    yield Finding("processors", f"{CPU_COUNT}{limit}")


def memory() -> Iterator[Finding]:
    total = psutil.virtual_memory().total
    limit = f", limited to {format_bytes(MEMORY_LIMIT)}" if total > MEMORY_LIMIT else ""
    yield Finding("memory", f"{format_bytes(total)}{limit}")


def descriptors(in_use: bool) -> Iterator[Finding]:
    """The limit of open files: of this process if it is a worker's, else of one started here."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not in_use:
        # Dask's commands raise the limit so far
        most = max(most, (1 << 20 if hard == resource.RLIM_INFINITY else hard) // 2)
    text = f"{most} for each worker or scheduler"
    if most < FEW_DESCRIPTORS:
        yield Finding(
            "descriptors",
            text,
            "note",
            "raise the hard limit ('ulimit -Hn', LimitNOFILE= of systemd): each connection takes "
            "one, a worker has one to each peer and a scheduler one to each worker",
        )
    else:
        yield Finding("descriptors", text)


def scratch(directory: Path) -> Iterator[Finding]:
    """The directory that results are spilled to."""
    try:
        there = _existing(directory)
        room = psutil.disk_usage(str(there)).free
    except OSError as error:
        yield Finding("scratch", f"{directory}: {error}", "problem", _SCRATCH)
        return
    kind = _file_system(there)
    text = f"{directory} ({kind or 'unknown file system'}, {format_bytes(room)} free)"
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield Finding("scratch", f"{text} cannot be written to", "problem", _SCRATCH)
    elif kind in IN_MEMORY:
        yield Finding("scratch", f"{text}: what is spilled stays in memory", "note", _SCRATCH)
    elif kind in OVER_NETWORK:
        yield Finding("scratch", f"{text}: spilling goes over the network", "note", _SCRATCH)
    elif room < LITTLE_ROOM:
        yield Finding("scratch", f"{text}: spilling may fill it", "note", _SCRATCH)
    else:
        yield Finding("scratch", text)


_SCRATCH = (
    "name a directory on a local disk with room: temporary-directory in Dask's configuration, or "
    "--local-directory"
)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest above it that exists."""
    directory = directory.absolute()
    return next(path for path in (directory, *directory.parents) if path.exists())


def _file_system(directory: Path) -> str:
    real = str(directory.resolve())
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    above = [mount for mount in mounts if real == mount or real.startswith(mount.rstrip("/") + "/")]
    return mounts[max(above, key=len)] if above else ""


def tls() -> Iterator[Finding]:
    """Dask's TLS configuration: files that belong together, and a CA that has not expired."""
    get = dask.config.get
    ca = get("distributed.comm.tls.ca-file", None)
    pairs = {
        role: (
            get(f"distributed.comm.tls.{role}.cert", None),
            get(f"distributed.comm.tls.{role}.key", None),
        )
        for role in ("scheduler", "worker", "client")
    }
    required = get("distributed.comm.require-encryption", False)
    given = {role: pair for role, pair in pairs.items() if pair[0]}
    if not ca and not given:
        if required:
            yield Finding(
                "TLS",
                "encryption is required, and no certificates are configured",
                "problem",
                "set distributed.comm.tls, or pass a Security to what you start",
            )
        else:
            yield Finding("TLS", "not configured: connections are not encrypted")
        return
    wrong = list(_wrong_files(ca, given))
    for text in wrong:
        yield Finding("TLS", text, "problem", "correct distributed.comm.tls in the configuration")
    if not wrong:
        yield Finding("TLS", f"certificates of {', '.join(given)}, CA {ca}")


def _no_password() -> str:
    """In the place of a prompt on the terminal of a worker."""
    raise ValueError("the key is encrypted, and Dask has no setting for a password")


def _wrong_files(ca: str | None, pairs: dict[str, tuple[str | None, str | None]]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        if error := _error_of(context.load_verify_locations, ca):
            yield f"CA {ca}: {error}"
        for certificate in context.get_ca_certs():
            expires = str(certificate["notAfter"])
            if ssl.cert_time_to_seconds(expires) < time.time():
                yield f"CA {ca} expired at {expires}"
    for role, (cert, key) in pairs.items():
        if error := _error_of(context.load_cert_chain, cert, key, _no_password):
            yield f"certificate of the {role}, {cert} with key {key}: {error}"


def crashes() -> Iterator[Finding]:
    """What is left of a process that crashes, and whether a debugger may look at one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    cores = "off ('ulimit -c unlimited' turns them on)" if soft == 0 else "on"
    yield Finding("core dumps", cores)
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        scope = 0
    who = {
        0: "py-spy and gdb may look at your processes",
        1: "py-spy and gdb need root, or have to start the process",
        2: "py-spy and gdb need root",
        3: "no debugger may look at a process",
    }
    yield Finding("ptrace", f"scope {scope}: {who.get(scope, 'unknown')}")
