"""The command that looks into wheels and sdists: what it lets pass and what it fails on."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "ci" / "package_contents.py"
COMPILED = "fastworker/core/fast.cpython-311-x86_64-linux-gnu.so"
SOURCES = {
    "fastworker/__init__.py": b"",
    "fastworker/py.typed": b"",
    "fastworker/core/fast.pyx": b"",
    "fastworker/core/fast.pyi": b"",
}
WHEEL = {
    **SOURCES,
    COMPILED: b"\x7fELF .text",
    "fastworker-1.dist-info/METADATA": b"Name: fastworker",
}
SDIST = {**SOURCES, "setup.py": b"", "pyproject.toml": b"", "PKG-INFO": b""}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A project's folder in which a build has left something."""
    left = {"fastworker/core/fast.c": b"", COMPILED: b"", "fastworker/__pycache__/x.pyc": b""}
    for name, data in {**SOURCES, **left, "tests/test_it.py": b""}.items():
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "sources"


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "fastworker-1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return path


def make_sdist(folder: Path, files: dict[str, bytes]) -> Path:
    root = folder / "fastworker-1"
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    path = folder / "fastworker-1.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        sdist.add(root, "fastworker-1")
    return path


def check(sources: Path, archive: Path) -> tuple[int, list[str]]:
    command = [sys.executable, str(SCRIPT), str(sources), str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("folders", [{}, {"fastworker/": b"", "fastworker/core/": b""}])
def test_lets_pass_what_is_right(sources, tmp_path, folders):
    """Also with the entries for folders that auditwheel writes."""
    for archive in (make_wheel(tmp_path, {**folders, **WHEEL}), make_sdist(tmp_path, SDIST)):
        assert check(sources, archive) == (
            0,
            [f"{archive.name}: {archive.stat().st_size} bytes, as it should be"],
        )


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"fastworker/core/fast.pyi": None}, "missing: fastworker/core/fast.pyi"),
        ({COMPILED: None}, "missing: fastworker/core/fast.so"),
        ({"fastworker/core/fast.c": b""}, "does not belong there: fastworker/core/fast.c"),
        ({"tests/test_it.py": b""}, "does not belong there: tests/test_it.py"),
        ({COMPILED: b"\x7fELF .symtab"}, f"has .symtab: {COMPILED}"),
        ({COMPILED: b"\x7fELF .debug_info"}, f"has .debug_info: {COMPILED}"),
    ],
)
def test_finds_a_fault_of_a_wheel(sources, tmp_path, change, fault):
    files = {name: data for name, data in {**WHEEL, **change}.items() if data is not None}
    assert check(sources, make_wheel(tmp_path, files)) == (1, [fault])


def test_finds_a_large_wheel(sources, tmp_path):
    wheel = make_wheel(tmp_path, {**WHEEL, COMPILED: bytes(2_000_000)})
    size = wheel.stat().st_size
    assert check(sources, wheel) == (1, [f"too large: {size} bytes, at most 2000000 are allowed"])


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"fastworker/core/fast.pyx": None}, "missing: fastworker/core/fast.pyx"),
        ({"fastworker/core/fast.c": b""}, "does not belong there: fastworker/core/fast.c"),
        ({"tests/test_it.py": b""}, "does not belong there: tests/test_it.py"),
    ],
)
def test_finds_a_fault_of_an_sdist(sources, tmp_path, change, fault):
    files = {name: data for name, data in {**SDIST, **change}.items() if data is not None}
    assert check(sources, make_sdist(tmp_path, files)) == (1, [fault])
