"""The release script, run on a small project: what it changes, and when it changes nothing.

The wheels are left out, or their script is one that ends at once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"
CHANGELOG = """\
# Changelog

## Unreleased

- Something new.

## 0.1.0 (2026-01-01)

- The first one.
"""
ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{role}_NAME": "A developer" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "developer@example.org" for role in ("AUTHOR", "COMMITTER")},
}


@dataclass
class Project:
    root: Path

    def git(self, *args: str) -> str:
        command = ["git", *args]
        return subprocess.run(
            command, cwd=self.root, env=ENVIRONMENT, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, message: str = "A change") -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def state(self) -> tuple[str, ...]:
        """All that a release changes."""
        files = sorted(p for p in (self.root / "dist").glob("*") if p.is_file())
        return (
            self.git("for-each-ref"),
            self.git("status", "--porcelain", "--branch"),
            self.git("worktree", "list"),
            *(path.read_text() for path in files),
        )

    def release(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "ci/release", *args],
            cwd=self.root,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("origin"))
    project.write("CHANGELOG.md", CHANGELOG)
    project.write("fastworker/_version.py", '__version__ = "0.1.0"\n')
    project.write(".gitignore", "/dist/\n")
    (project.root / "ci").mkdir()
    for name in ("common.sh", "release", "changelog.py"):
        shutil.copy(CI / name, project.root / "ci" / name)
    project.write("ci/wheels", "mkdir dist && echo a checksum >dist/SHA256SUMS\n")
    project.git("init", "-q", "-b", "main")
    project.commit()
    project.git("tag", "-m", "Of before", "v0.1.0")
    return project


@pytest.fixture
def project(origin: Project, tmp_path: Path) -> Project:
    origin.git("clone", "-q", ".", str(tmp_path / "clone"))
    return Project(tmp_path / "clone")


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0rc1"])
def test_a_release(project, version):
    pushed = project.git("ls-remote", "origin")
    done = project.release("--no-wheels", version)
    assert done.returncode == 0, done.stderr
    assert project.git("show", "-s", "--format=%s", "main") == f"Release {version}"
    assert project.git("rev-list", "--count", "origin/main..main") == "1"
    assert project.git("status", "--porcelain") == ""
    assert (project.root / "fastworker/_version.py").read_text() == f'__version__ = "{version}"\n'
    changelog = (project.root / "CHANGELOG.md").read_text()
    heading = rf"## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)"
    assert re.fullmatch(
        re.escape(CHANGELOG).replace(re.escape("## Unreleased"), heading), changelog
    )

    assert project.git("cat-file", "-t", f"v{version}") == "tag"
    assert project.git("rev-parse", f"v{version}^{{commit}}") == project.git("rev-parse", "main")
    contents = project.git("tag", "-l", "--format=%(contents)", f"v{version}")
    assert contents == f"fastworker {version}\n\n- Something new."

    assert not (project.root / "dist").exists()
    assert len(project.git("worktree", "list").splitlines()) == 1
    assert project.git("ls-remote", "origin") == pushed
    assert f"git push origin main v{version}" in done.stdout


def test_the_section_may_have_its_name_already(project):
    project.write("CHANGELOG.md", CHANGELOG.replace("Unreleased", "0.2.0 (2026-02-02)"))
    project.write("fastworker/_version.py", '__version__ = "0.2.0"\n')
    project.commit("All that a release changes")
    assert project.release("--no-wheels", "0.2.0").returncode == 0
    assert project.git("show", "-s", "--format=%s", "v0.2.0^{commit}") == (
        "All that a release changes"
    )


def test_its_wheels_are_of_the_new_version(project):
    project.write(
        "ci/wheels", "mkdir dist && cat fastworker/_version.py >dist/wheel && git status -s\n"
    )
    project.write("dist/of-before", "an older build\n")
    project.commit()
    done = project.release("0.2.0")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (project.root / "dist").iterdir()] == ["wheel"]
    assert (project.root / "dist/wheel").read_text() == '__version__ = "0.2.0"\n'


def test_a_dry_run_leaves_nothing(project):
    before = project.state()
    done = project.release("--dry-run", "0.2.0")
    assert done.returncode == 0, done.stderr
    assert "Release 0.2.0" in done.stdout
    assert "- Something new." in done.stdout
    assert project.state() == before


def test_wheels_that_fail_leave_nothing(project):
    project.write("ci/wheels", "mkdir dist; echo no such wheel >&2; exit 3\n")
    project.commit()
    before = project.state()
    done = project.release("0.2.0")
    assert done.returncode == 3
    assert "no such wheel" in done.stderr
    assert project.state() == before


def add_a_file(project: Project) -> None:
    project.write("new", "")


def leave_the_branch(project: Project) -> None:
    project.git("checkout", "-q", "--detach")


def change_the_changelog(old: str, new: str):
    def change(project: Project) -> None:
        project.write("CHANGELOG.md", CHANGELOG.replace(old, new))
        project.commit()

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (add_a_file, "changes that are not committed:\n?? new"),
        (leave_the_branch, "no branch is checked out"),
        (change_the_changelog("Unreleased", "0.2.0rc1"), "it has none"),
        (change_the_changelog("0.1.0", "0.2.0"), "it has more than one"),
        (change_the_changelog("- Something new.\n", ""), "nothing stands below '## Unreleased'"),
    ],
)
def test_a_project_that_is_not_ready(project, change, said):
    change(project)
    before = project.state()
    done = project.release("--no-wheels", "0.2.0")
    assert done.returncode == 1
    assert said in done.stderr
    assert project.state() == before


def test_arguments_that_are_refused(project):
    before = project.state()
    for args, said in (
        ([], "usage: "),
        (["0.2.0", "0.3.0"], "one version only; usage: "),
        (["--dry", "0.2.0"], "unknown option --dry; usage: "),
        (["0.2"], "'0.2' is no version such as 1.2.0 or 1.2.0rc1"),
        (["v0.2.0"], "'v0.2.0' is no version"),
        (["0.1.0"], "there is a tag v0.1.0 already"),
    ):
        done = project.release("--no-wheels", *args)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert project.state() == before
