"""The defaults, which importing this module adds to Dask's configuration.

``fastworker/fastworker.yaml`` has the keys, their units and their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.config

COMM = "fastworker.comm"

DEFAULTS: dict[str, Any]
(DEFAULTS,) = dask.config.collect_yaml([str(Path(__file__).parents[1] / "fastworker.yaml")])

#: Values that the user has set where a section belongs, by the section's key. Dask drops them when
#: it gets the section's defaults.
displaced: dict[str, Any] = {}


def _add_defaults() -> None:
    given = dask.config.get("fastworker", None)
    if given is not None and not isinstance(given, Mapping):
        displaced["fastworker"] = given
    for name, section in DEFAULTS["fastworker"].items():
        value = dask.config.get(f"fastworker.{name}", None)
        if isinstance(section, Mapping) and value is not None and not isinstance(value, Mapping):
            displaced[f"fastworker.{name}"] = value
    dask.config.update_defaults(DEFAULTS)
    if isinstance(displaced.get(COMM), str):
        # The one section that may be a word, see `fastworker.config.comm_choice`
        dask.config.set({COMM: displaced.pop(COMM)})


_add_defaults()
