"""The oldest distributed."""

from __future__ import annotations

import distributed
import pytest

from fastworker.config.versions import check_distributed


@pytest.mark.parametrize("version", ["2025.12.0", "2026.8.0", "2026.8.0+3.gabc", "0+untagged.1.g1"])
def test_a_distributed_that_is_taken(monkeypatch, version):
    monkeypatch.setattr(distributed, "__version__", version)
    check_distributed()


@pytest.mark.parametrize("version", ["2025.11.0", "2025.11.0+3.gabc"])
def test_a_distributed_that_is_too_old(monkeypatch, version):
    monkeypatch.setattr(distributed, "__version__", version)
    with pytest.raises(ImportError, match=r"needs distributed 2025\.12\.0 or newer"):
        check_distributed()
