"""Connections: native ``tcp://`` and ``tls://``, and the worker's messages to its scheduler.

The comm speaks the protocol of distributed's own, so that either end of a connection may have
either. `use` puts it in place for this process.
"""

from __future__ import annotations

from fastworker.comm.memory import forget_spare
from fastworker.comm.selection import in_use, keep_spare, use, use_configured

__all__ = ["forget_spare", "in_use", "keep_spare", "use", "use_configured"]
