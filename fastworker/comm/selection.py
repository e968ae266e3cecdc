"""Which comm ``tcp://`` and ``tls://`` mean in this process: ours, or distributed's.

The choice holds for a process, not for a worker: distributed keeps one registry of protocols for
all that runs in the process. Existing connections stay as they are. Both comms speak the same
protocol, so peers need no change.
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
#: Whether `use` was called; guarded by the GIL.
_chosen = False

_OURS: dict[str, type] = {"tcp": TCPBackend, "tls": TLSBackend}


def in_use() -> dict[str, str]:
    """For ``tcp`` and ``tls``: ``native``, ``tornado``, or the name of another class."""
    return {scheme: _name(scheme) for scheme in _OURS}


def use(which: str) -> None:
    """Make later connections of this process ``native`` or ``tornado`` ones.

    Workers made later do not change this, even if ``fastworker.comm.transport`` differs. Raises
    ValueError for another name.
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
            # User code has registered a backend of its own: leave it
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
