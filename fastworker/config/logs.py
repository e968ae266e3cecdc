"""The loggers of lines that only fastworker has.

Lines that distributed's worker has too go to distributed's loggers, where users look for them.
"""

from __future__ import annotations

import logging

# Sets up loggers as Dask's configuration says, those named ``fastworker`` included.
import distributed.config  # noqa: F401

_ROOT = logging.getLogger("fastworker")

if _ROOT.level == logging.NOTSET and not _ROOT.handlers:
    # Not configured by the user: its lines go where distributed's go, in their format and from
    # their level on, and LocalCluster(silence_logs=) silences both.
    _ROOT.parent = logging.getLogger("distributed")


def get_logger(topic: str) -> logging.Logger:
    """The logger ``fastworker.<topic>``."""
    return _ROOT.getChild(topic)
