"""Tests of distributed that fail with fastworker's classes, each with the reason why that is right.

A key is a test's file and name, without parameters. A reason says which detail of stock's classes
the test looks at that no user can rely on, or what fastworker does instead and why it is better.
"""

from __future__ import annotations

from collections.abc import Iterable

REASONS: dict[str, str] = {
    "test_worker_state_machine.py::test_deprecated_worker_attributes": (
        "wants a warning that Worker.data_needed has been removed (distributed 2025 only); "
        "fastworker.Worker documents that attribute and keeps it, with the value it always had."
    ),
}


def find(test_id: str) -> str | None:
    """The reason for a test's failure, by its pytest id, or ``None``."""
    return REASONS.get(_key(test_id))


def unused(run: Iterable[str], failed: Iterable[str]) -> list[str]:
    """Entries whose test was among those ``run`` and did not fail: they can be deleted."""
    good = {_key(test_id) for test_id in run} - {_key(test_id) for test_id in failed}
    return sorted(good & REASONS.keys())


def _key(test_id: str) -> str:
    path, _, name = test_id.partition("::")
    return f"{path.rpartition('/')[2]}::{name.partition('[')[0]}"
