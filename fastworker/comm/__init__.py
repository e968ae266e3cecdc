"""Connections: native ``tcp://`` and ``tls://``.

The comm speaks the protocol of distributed's own, so that either end of a connection may have
either. `use` puts it in place for this process.
"""

from __future__ import annotations

from fastworker.comm.selection import in_use, use, use_configured
from fastworker.comm.spare import SpareMemory, give_back

__all__ = ["SpareMemory", "give_back", "in_use", "use", "use_configured"]
