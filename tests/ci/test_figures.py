"""The command that writes benchmark figures into tables, and finds wrong ones there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "figures.py"

RATIOS = {
    "format": 1,
    "environment": {},
    "ratios": {
        name: {
            "ratio": ratio,
            "stock": stock,
            "ours": ours,
            "unit": unit,
            "test": "bench/test_a.py::test",
            "slow": False,
            "judged": True,
        }
        for name, ratio, stock, ours, unit in (
            ("cpu", 25.25, 505.0, 20.0, "us/task"),
            ("large", 2.017, 10157.8, 5036.1, "us"),
            ("peak", 0.99961, 1408.3, 246.0, "MB"),
            ("map/ours", 1.2405, 9800.0, 7900.0, "ms"),
            ("map/lane", 10.0, 9800.0, 980.0, "ms"),
        )
    },
}

PAGE = """\
| elsewhere | 1 | 2 | 3 |

<!-- figures -->

| | stock | ours | ratio |
|---|---|---|---|
| a task | 415 µs | 10 µs | 41 <!-- cpu --> |
| a task, a large one | 0 | 0 | 0 <!-- cpu large --> |
| the peak | 0 | 0 | 0 <!-- peak --> |
| a shuffle | 13 s | 11 s | 1.18 <!-- by hand --> |

| step by step | stock | ours | with the lane |
|---|---|---|---|
| a map | 0 | 0 | 0 <!-- map/ours map/lane --> |

<!-- /figures -->
"""

RIGHT = """\
| a task | 505 µs | 20.0 µs | 25.2 <!-- cpu --> |
| a task, a large one | 505 µs, 10.2 ms | 20.0 µs, 5.04 ms | 25.2, 2.02 <!-- cpu large --> |
| the peak | 1.41 GB | 246 MB | 1.00 <!-- peak --> |
| a shuffle | 13 s | 11 s | 1.18 <!-- by hand --> |

| step by step | stock | ours | with the lane |
|---|---|---|---|
| a map | 9.80 s | 7.90 s (1.24) | 980 ms (10.0) <!-- map/ours map/lane --> |
"""


class Files:
    def __init__(self, folder: Path) -> None:
        self.page = folder / "page.md"
        self.ratios = folder / "ratios.json"
        self.page.write_text(PAGE, encoding="utf-8")
        self.ratios.write_text(json.dumps(RATIOS))

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *options, "--ratios", str(self.ratios)]
        return subprocess.run(
            [*command, str(self.page)], capture_output=True, encoding="utf-8", timeout=60
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_it_writes_what_it_then_accepts(files: Files) -> None:
    assert files.run().returncode == 0
    text = files.page.read_text(encoding="utf-8")
    assert RIGHT in text
    assert text.startswith("| elsewhere | 1 | 2 | 3 |\n")
    assert files.run("--check").returncode == 0


def test_check_fails_on_a_wrong_figure_and_changes_nothing(files: Files) -> None:
    files.run()
    wrong = files.page.read_text(encoding="utf-8").replace("20.0 µs | 25.2 <", "10.0 µs | 25.2 <")
    files.page.write_text(wrong, encoding="utf-8")
    done = files.run("--check")
    assert done.returncode == 1
    assert "is:        | a task | 505 µs | 10.0 µs |" in done.stdout
    assert "should be: | a task | 505 µs | 20.0 µs |" in done.stdout
    assert files.page.read_text(encoding="utf-8") == wrong


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<!-- cpu -->", "<!-- cpus -->", "no benchmark cpus"),
        ("<!-- cpu -->", "", "does not say where its figures are from: | a task |"),
        ("<!-- /figures -->", "", "no table between"),
    ],
)
def test_a_page_that_cannot_be_used(files: Files, old: str, new: str, said: str) -> None:
    files.page.write_text(PAGE.replace(old, new), encoding="utf-8")
    done = files.run()
    assert done.returncode == 2
    assert said in done.stderr
    assert "page.md" in done.stderr


def test_the_pages_of_this_repository() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
