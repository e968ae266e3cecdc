"""How long the stress tests are to take, and what they draw from."""

from __future__ import annotations

import os

import pytest

#: Seconds for all of them together, and what the dice start from.
SECONDS = float(os.environ.get("FASTWORKER_STRESS_SECONDS", "60"))
SEED = int(os.environ.get("FASTWORKER_STRESS_SEED", "0"))


def takes(share: float) -> pytest.MarkDecorator:
    """For a test that takes this share of the time. When it is far over, all stacks are shown."""
    return pytest.mark.timeout(3 * share * SECONDS + 240)
