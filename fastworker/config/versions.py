"""Which releases of distributed fastworker works with."""

from __future__ import annotations

from packaging.version import Version

#: The oldest distributed that the tests run with.
OLDEST = Version("2025.12.0")


def is_too_old(version: str) -> bool:
    """Whether fastworker does not work with this version of distributed.

    Built from a checkout without tags, distributed calls itself 0+untagged or the like: it passes.
    """
    installed = Version(version)
    return installed.major != 0 and installed < OLDEST


def check_distributed() -> None:
    """Raise ImportError if the installed distributed is older than fastworker can work with."""
    import distributed

    if is_too_old(distributed.__version__):
        raise ImportError(
            f"fastworker needs distributed {OLDEST} or newer, and {distributed.__version__} is "
            f"installed; pip install --upgrade 'dask>={OLDEST}' 'distributed>={OLDEST}'"
        )
