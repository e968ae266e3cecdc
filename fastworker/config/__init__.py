"""fastworker's part of Dask's configuration: the defaults, and reading it with clear errors."""

from __future__ import annotations

from fastworker.config.defaults import DEFAULTS
from fastworker.config.settings import (
    CommSettings,
    comm_choice,
    number_of_threads,
    worker_setting,
)

__all__ = ["DEFAULTS", "CommSettings", "comm_choice", "number_of_threads", "worker_setting"]
