"""Builds the compiled modules; everything else about the package is in pyproject.toml.

Environment variables change how they are compiled:

``FASTWORKER_DEBUG=1``
    Keep C assertions, bounds checks and symbols; do not optimise.
``FASTWORKER_SANITIZE=1``
    The same, with AddressSanitizer and UndefinedBehaviorSanitizer; see ci/sanitize.
``FASTWORKER_SYMBOLS=1``
    Optimise as always, but keep the names of C functions, for perf, callgrind and native stacks.
``FASTWORKER_WERROR=1``
    A compiler warning fails the build (set in CI).
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

SANITIZE = os.environ.get("FASTWORKER_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("FASTWORKER_DEBUG") == "1"

SYMBOLS = DEBUG or os.environ.get("FASTWORKER_SYMBOLS") == "1"

cflags = ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-g0"]
if SANITIZE:
    sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    # Cython compares and hands on pointers that may be NULL; what else is undefined is an error
    cflags += ["-O1", *sanitizers, "-fno-sanitize-recover=undefined"]
else:
    sanitizers = []
# A tenth of the wheel would be names of C functions. Apple's linker knows no such option.
strip = ["-Wl,-s"] if not SYMBOLS and sys.platform != "darwin" else []
cflags += ["-Wall", "-Wextra"]
# Cython's own generated helpers, not our code, trip these two.
cflags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-cast-function-type"]
if os.environ.get("FASTWORKER_WERROR") == "1":
    cflags.append("-Werror")


# Modules that no plain task passes through, or that spend their time in system calls: a fifth
# smaller with -Os, and no slower where it counts. The wheel has to stay below 2 MB; section garbage
# collection and hidden visibility save it nothing, as Cython's functions are static.
SMALL = {
    "comm/arena",
    "comm/outgoing",
    "comm/parser",
    "comm/stream",
    "link/counts",
    "link/outbox",
    "link/transport",
    "monitoring/stacks",
}


def level(path: Path) -> list[str]:
    """How much to optimise: -O3 makes the core a tenth faster, and only larger what is not hot."""
    if DEBUG:
        return []
    if path.relative_to("fastworker").with_suffix("").as_posix() in SMALL:
        return ["-Os"]
    return ["-O3"] if path.parent.name == "core" else ["-O2"]


def processors() -> int:
    """How many compilers to run at once: each takes some 200 MB."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


class CythonBuild(build_ext):
    """Makes the C when it compiles it: to pip, the sources of an extension are the ``.pyx``.

    The sdist and the wheel have the sources of extensions in them, and generated C is none.
    """

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = processors()  # unless "-j" says otherwise

    def build_extensions(self) -> None:
        check_compiler(getattr(self.compiler, "compiler_so", None))
        compiled = cythonize(
            self.extensions,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
                "freethreading_compatible": False,
                # What may be pickled has a __reduce__ of its own; the rest is never pickled.
                "auto_pickle": False,
            },
            annotate=False,
            nthreads=self.parallel,
            force=self.force,
        )
        made = {extension.name: extension for extension in compiled}
        for extension in self.extensions:
            extension.sources = made[extension.name].sources
            extension.depends = made[extension.name].depends
        super().build_extensions()


def check_compiler(command: list[str] | None) -> None:
    """Raise PlatformError, before minutes of work, if what compiles C is not there.

    ``command`` is None where setuptools looks for the compiler itself.
    """
    if command and shutil.which(command[0]) is None:
        raise PlatformError(
            f"fastworker is compiled, and there is no C compiler {command[0]!r} here; install one "
            "(apt install gcc, dnf install gcc, xcode-select --install), or name it in CC"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise PlatformError(
            f"fastworker is compiled, and there is no {header}; install the headers of Python "
            "(apt install python3-dev, dnf install python3-devel)"
        )


sources = sorted(Path("fastworker").rglob("*.pyx"))
extensions = [
    Extension(
        ".".join(path.with_suffix("").parts),
        [path.as_posix()],
        extra_compile_args=cflags + level(path),
        extra_link_args=sanitizers + strip,
    )
    for path in sources
]

# Cython's processes import this file where they cannot be forked.
if __name__ == "__main__":
    setup(ext_modules=extensions, cmdclass={"build_ext": CythonBuild})
