"""The loggers of what only fastworker has to say.

What distributed's worker says too goes to distributed's loggers, where people look for it.
"""

from __future__ import annotations

import logging

# It sets the loggers up as Dask's configuration says, those named ``fastworker`` there included.
import distributed.config  # noqa: F401

_ROOT = logging.getLogger("fastworker")

if _ROOT.level == logging.NOTSET and not _ROOT.handlers:
    # The user has said nothing about it. So it goes where distributed's lines go, in their format
    # and from their level on, and is silent where LocalCluster(silence_logs=) silences those.
    _ROOT.parent = logging.getLogger("distributed")


def get_logger(topic: str) -> logging.Logger:
    """The logger ``fastworker.<topic>``."""
    return _ROOT.getChild(topic)
