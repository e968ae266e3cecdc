"""Which comm ``tcp://`` and ``tls://`` mean in this process: ours, or distributed's.

It is a choice for a process, not for a worker: distributed keeps one registry of protocols, which
whatever else runs in the process shares. Connections that exist stay what they are, and as both
speak the same protocol, nothing else changes for those who use them.
"""

from __future__ import annotations

from distributed.comm import tcp as stock
from distributed.comm.registry import backends

from fastworker.comm.backend import TCPBackend, TLSBackend
from fastworker.config import comm_choice
from fastworker.config.logs import get_logger
from fastworker.config.unknown_keys import warn_of_unknown_keys

logger = get_logger("comm")

NATIVE, TORNADO = "native", "tornado"

_STOCK: dict[str, type] = {"tcp": stock.TCPBackend, "tls": stock.TLSBackend}
#: Whether somebody has called `use`; guarded by the GIL.
_chosen = False

_OURS: dict[str, type] = {"tcp": TCPBackend, "tls": TLSBackend}


def in_use() -> dict[str, str]:
    """For ``tcp`` and ``tls``: ``native``, ``tornado``, or the name of somebody else's class."""
    return {scheme: _name(scheme) for scheme in _OURS}


def use(which: str) -> None:
    """Let this process's connections from now on be ``native`` or ``tornado`` ones.

    Workers that are made later leave it at that, whatever is configured. Raises ValueError for
    another name.
    """
    global _chosen
    _put_in_place(which)
    _chosen = True


def use_configured() -> None:
    """What a process of workers does when it starts: follow ``fastworker.comm.transport``.

    Does nothing after `use`. Raises ValueError for a bad value, naming its key.
    """
    warn_of_unknown_keys()
    which = comm_choice()
    if not _chosen:
        _put_in_place(which)


def _put_in_place(which: str) -> None:
    if which not in (NATIVE, TORNADO):
        raise ValueError(f"there is no comm {which!r}; there are {NATIVE} and {TORNADO}")
    before = in_use()
    for scheme, backend in (_OURS if which == NATIVE else _STOCK).items():
        if before[scheme] not in (NATIVE, TORNADO):
            # Somebody has registered a backend of their own, and will have had a reason
            logger.info("Comm for %s:// stays %s", scheme, before[scheme])
        elif before[scheme] != which:
            backends[scheme] = backend()
    if in_use() != before:
        logger.debug("Comm for tcp:// and tls:// is %s", which)


def _name(scheme: str) -> str:
    kind = type(backends.get(scheme))
    if kind is _OURS[scheme]:
        return NATIVE
    return TORNADO if kind is _STOCK[scheme] else f"{kind.__module__}.{kind.__qualname__}"
