"""Builds the compiled modules; everything else about the package is in pyproject.toml.

Two environment variables change how they are compiled:

``FASTWORKER_DEBUG=1``
    Keep C assertions, bounds checks and debug symbols; do not optimise.
``FASTWORKER_WERROR=1``
    A compiler warning fails the build (set in CI).
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTWORKER_DEBUG") == "1"

cflags = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
cflags += ["-Wall", "-Wextra"]
# Cython's own generated helpers, not our code, trip these two.
cflags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
if os.environ.get("FASTWORKER_WERROR") == "1":
    cflags.append("-Werror")

sources = sorted(Path("fastworker").rglob("*.pyx"))
extensions = [
    Extension(
        ".".join(path.with_suffix("").parts),
        [path.as_posix()],
        extra_compile_args=cflags,
    )
    for path in sources
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
        annotate=False,
    )
)
