"""The package declares what it imports, its extras what demo and tests import, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fastworker

ROOT = Path(__file__).parents[2]
PACKAGE = Path(fastworker.__file__).parent
SOURCES = [path for suffix in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}")]
DEMO = [path for path in SOURCES if PACKAGE / "demo" in path.parents]
TESTS = [path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")]

#: What the package imports only where it is installed anyway.
OPTIONAL = {
    "numpy": "for an array, whose sender and receiver have it",
    "prometheus_client": "for distributed's page, which is there only if this is installed",
    "zstandard": "for messages compressed with it, which distributed reads only if it is installed",
}

#: What tests import only where it is installed anyway, or where they have made it.
OPTIONAL_IN_TESTS = {
    "atheris": "a fuzzer for long runs by hand; it has no releases for each Python",
    "conda": "the test of what happens without it is skipped where it is there",
    "crick": "gives all workers digests, so that CI has it beside one distributed only",
    "lz4": "becomes the compression of all workers, so that CI has it beside one distributed only",
    "package_of_test": "a test uploads it",
    "uploaded_by_test": "a test uploads it",
}

#: Not of this environment: the tests of tests/ecosystem have requirements of their own.
ELSEWHERE = ROOT / "tests" / "ecosystem"

#: What Cython itself brings along.
OF_CYTHON = {"cpython", "cython", "libc", "libcpp", "posix"}

TEXT = re.compile(r'""".*?"""|#[^\n]*', re.DOTALL)
STATEMENT = re.compile(r"^[ \t]*(?:from +([\w.]+) +c?import\b|c?import +([\w., ]+))", re.MULTILINE)

#: Functions that look for the module that their first argument names.
LOOKUPS = {"import_module", "find_spec", "importorskip"}


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a source file imports or cimports, wherever in it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):
        for source, names in STATEMENT.findall(TEXT.sub("", text)):
            yield from [source] if source else (name.split()[0] for name in names.split(","))
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name),
                args=[ast.Constant(value=str(module)), *_],
            ) if name in LOOKUPS:
                yield module


def imported(paths: Iterable[Path]) -> dict[str, Path]:
    """Third-party modules that these files import, each with one of the files."""
    found = {name.partition(".")[0]: path for path in paths for name in imports(path)}
    return {
        name: path
        for name, path in found.items()
        if name not in sys.stdlib_module_names | OF_CYTHON | {"fastworker"}
    }


def distributions(modules: Iterable[str]) -> set[str]:
    """The packages of an index that these modules come from."""
    known = metadata.packages_distributions()
    return {canonicalize_name(name) for module in modules for name in known.get(module, [module])}


def declared(name: str, extra: str = "", depth: int = 9) -> set[str]:
    """What a distribution requires (with an extra: what the extra adds), extras followed."""
    found = set()
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if not (always if not extra else not always and marker.evaluate({"extra": extra})):
            continue
        if canonicalize_name(requirement.name) != "fastworker":
            found.add(canonicalize_name(requirement.name))
        if depth:
            for more in requirement.extras:
                found |= declared(requirement.name, more, depth - 1)
    return found


def missing(modules: dict[str, Path], names: set[str]) -> dict[str, str]:
    return {
        module: str(path) for module, path in modules.items() if not distributions([module]) & names
    }


def test_the_package_declares_what_it_imports():
    assert any(path.suffix == ".pyx" for path in SOURCES)
    modules = imported(set(SOURCES) - set(DEMO))
    assert missing(modules, declared("fastworker")).keys() == OPTIONAL.keys()


def test_the_demo_declares_what_it_imports():
    names = declared("fastworker") | declared("fastworker", "demo")
    assert not missing(imported(DEMO), names)


def test_the_tests_declare_what_they_import():
    own = {path.stem for path in TESTS} | {path.parent.name for path in TESTS}
    modules = imported(path for path in TESTS if ELSEWHERE not in path.parents)
    names = declared("fastworker") | declared("fastworker", "test")
    others = {name: path for name, path in modules.items() if name not in own}
    assert missing(others, names).keys() == OPTIONAL_IN_TESTS.keys()


@pytest.mark.parametrize(
    "extra, sources",
    [("", set(SOURCES) - set(DEMO)), ("demo", DEMO), ("test", TESTS)],
    ids=["package", "demo", "tests"],
)
def test_what_is_declared_is_imported(extra, sources):
    names = declared("fastworker", extra, depth=0)
    assert names
    plugins = {
        canonicalize_name(point.dist.name) for point in metadata.entry_points(group="pytest11")
    }
    assert not names - distributions(imported(sources)) - plugins
