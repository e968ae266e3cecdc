"""Whole clusters; their logs are shown when a test fails."""

from support.cluster.fixtures import connect, launcher, pytest_runtest_makereport

__all__ = ["connect", "launcher", "pytest_runtest_makereport"]
