"""What tests and benchmarks share; ``tests`` is on ``sys.path`` wherever they run."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).parents[1]


def python_path(*first: Path | str) -> str:
    """PYTHONPATH for a process that imports from here: ``first``, ``tests``, what is set now."""
    path = [*map(str, first), str(TESTS), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(filter(None, path))
