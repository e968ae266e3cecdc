"""Which releases of distributed fastworker works with."""

from __future__ import annotations

from packaging.version import Version

#: The oldest distributed that the tests run with.
OLDEST = Version("2025.12.0")


def check_distributed() -> None:
    """Raise ImportError if the installed distributed is older than fastworker can work with.

    Built from a checkout without tags, distributed calls itself 0+untagged or the like: it passes.
    """
    import distributed

    installed = Version(distributed.__version__)
    if installed.major and installed < OLDEST:
        raise ImportError(
            f"fastworker needs distributed {OLDEST} or newer, and {distributed.__version__} is "
            f"installed; pip install --upgrade 'dask>={OLDEST}' 'distributed>={OLDEST}'"
        )
