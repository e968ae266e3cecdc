"""Check that a wheel or an sdist has in it what belongs there, and nothing else.

    package_contents.py SOURCES ARCHIVE

SOURCES is the project's folder. Every file of its folder ``fastworker`` must be in the archive, but
for what a build leaves there. A wheel has a compiled module for each ``.pyx`` besides, without
symbols, and stays below its limit of size.

Exit status: 0 all is well, 1 something is missing, left over or too large.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "fastworker"
MAX_WHEEL = 2_000_000  # bytes
#: What builds and interpreters leave beside the sources.
LEFT_OVER = re.compile(r"\.(c|so|pyc)$")
#: Sections of a shared library that the linker leaves out with -s.
SYMBOLS = (b".symtab", b".debug_info")
#: What else an archive has in it.
OF_WHEEL = re.compile(r"fastworker-[^/]+\.dist-info/")
OF_SDIST = re.compile(
    r"(LICENSE|MANIFEST\.in|PKG-INFO|README\.md|pyproject\.toml|setup\.cfg|setup\.py"
    r"|fastworker\.egg-info/[^/]+)$"
)


def package_files(sources: Path) -> set[str]:
    """The files of the package, with names as they have them in an archive."""
    files = (path for path in (sources / PACKAGE).rglob("*") if path.is_file())
    names = {path.relative_to(sources).as_posix() for path in files}
    return {name for name in names if not LEFT_OVER.search(name)}


def compare(expected: set[str], found: set[str]) -> list[str]:
    """One line for each file that is missing, or that is too much."""
    return [
        *(f"missing: {name}" for name in sorted(expected - found)),
        *(f"does not belong there: {name}" for name in sorted(found - expected)),
    ]


def check_wheel(sources: Path, archive: Path) -> list[str]:
    """What is wrong with a wheel, in lines."""
    expected = package_files(sources)
    expected |= {name.removesuffix(".pyx") + ".so" for name in expected if name.endswith(".pyx")}
    found, faults = set(), []
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if OF_WHEEL.match(name) or name.endswith("/"):  # auditwheel adds folders
                continue
            # The compiled module's name says for which Python and machine it is.
            found.add(re.sub(r"\.[^./]+\.so$", ".so", name))
            if name.endswith(".so"):
                data = wheel.read(name)
                faults += [
                    f"has {section.decode()}: {name}" for section in SYMBOLS if section in data
                ]
    size = archive.stat().st_size
    if size > MAX_WHEEL:
        faults.append(f"too large: {size} bytes, at most {MAX_WHEEL} are allowed")
    return compare(expected, found) + faults


def check_sdist(sources: Path, archive: Path) -> list[str]:
    """What is wrong with an sdist, in lines."""
    with tarfile.open(archive) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    return compare(package_files(sources), {name for name in names if not OF_SDIST.match(name)})


def main(args: Sequence[str]) -> int:
    sources, archive = map(Path, args)
    check = check_wheel if archive.suffix == ".whl" else check_sdist
    faults = check(sources, archive)
    print("\n".join(faults or [f"{archive.name}: {archive.stat().st_size} bytes, as it should be"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
