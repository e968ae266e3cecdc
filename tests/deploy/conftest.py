"""The processes that the tests start can import from ``support``."""

from __future__ import annotations

import pytest

from support import python_path


@pytest.fixture(autouse=True)
def can_import_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
