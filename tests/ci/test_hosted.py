"""What hosted CI, pre-commit and cibuildwheel are told again is what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PIN = re.compile(r"([\w-]+)==([\w.]+)")
SUPPORTED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_pre_commit_has_the_versions_of_lint():
    extra = re.search(r"^lint = \[(.*?)\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    assert extra is not None
    pinned = set(PIN.findall(extra[1]))
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {
        pin
        for hook in hooks
        for what in hook["additional_dependencies"]
        for pin in PIN.findall(what)
    } == pinned


@pytest.mark.parametrize("job", ["test", "wheels"])
def test_workflow_has_each_supported_python(job):
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert jobs[job]["strategy"]["matrix"]["python"] == SUPPORTED


def test_cibuildwheel_has_each_supported_python():
    build = re.search(r"^build = \[(.*)\]$", PYPROJECT, re.MULTILINE)
    assert build is not None
    assert re.findall(r'"cp3(\d+)-\*"', build[1]) == [version[2:] for version in SUPPORTED]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_name_scripts_that_exist(name):
    text = (ROOT / ".github/workflows" / name).read_text()
    matrix = read(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    for script in matrix["script"]:
        text += text.replace("${{ matrix.script }}", script)
    scripts = set(re.findall(r"(?:sh|python) (ci/[\w.-]+)", text))
    assert scripts
    assert [script for script in sorted(scripts) if not (ROOT / script).is_file()] == []
