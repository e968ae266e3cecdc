"""The command that compares benchmark ratios: what it lets pass and what it fails on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "ci" / "bench_compare.py"


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_compare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench_compare = _load_script()


def entry(value: float, **kwargs: Any) -> dict[str, Any]:
    return {
        "ratio": value,
        "stock": 10.0 * value,
        "ours": 10.0,
        "unit": "us",
        "test": "bench/test_a.py::test_a",
        "slow": False,
        "judged": True,
        **kwargs,
    }


def content(ratios: dict[str, Any], **environment: str) -> dict[str, Any]:
    return {"format": 1, "environment": {"python": "3.11.9", **environment}, "ratios": ratios}


class Files:
    """Writes files of ratios and runs the command on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.again = directory / "again"

    def write(self, name: str, what: dict[str, Any] | str) -> Path:
        path = self.directory / name
        path.write_text(what if isinstance(what, str) else json.dumps(what))
        return path

    def check(self, baseline: Any, *runs: Any, short: bool = False) -> int:
        paths = [self.write("baseline.json", baseline)]
        paths += [self.write(f"run-{i}.json", run) for i, run in enumerate(runs)]
        options = ["--again", str(self.again), *(["--short"] if short else [])]
        status: int = bench_compare.main(["check", *options, *map(str, paths)])
        return status


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_same_ratios_pass(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    run = content({"a": entry(12.0), "b": entry(5.0)})
    assert files.check(run, run) == 0
    assert "2 steady" in capsys.readouterr().out
    assert files.again.read_text() == ""


def test_memory_of_jobs_has_a_tolerance_of_its_own(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here and elsewhere: it hardly depends on the machine."""
    saved = {"job-memory/a": entry(1.0), "b": entry(1.0)}
    for cpu in ("this", "another"):
        baseline = content(saved, cpu=cpu)
        within = {"job-memory/a": entry(0.93), "b": entry(0.86)}
        assert files.check(baseline, content(within, cpu="this")) == 0
        beyond = {"job-memory/a": entry(0.91), "b": entry(0.86)}
        assert files.check(baseline, content(beyond, cpu="this")) == 1
        assert "REGRESSED: job-memory/a" in capsys.readouterr().out


def test_regression_fails_and_names_its_test(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = content({"a": entry(10.0), "b": entry(5.0, test="bench/test_b.py::test_b[1k]")})
    assert files.check(baseline, content({"a": entry(10.0), "b": entry(4.0)})) == 1
    out = capsys.readouterr().out
    assert "REGRESSED: b: 5.00 -> 4.00 (-20 %)" in out
    assert "REGRESSED: a" not in out
    assert files.again.read_text() == "bench/test_b.py::test_b[1k]\n"


@pytest.mark.parametrize(("now", "status"), [(8.6, 0), (8.4, 1), (11.4, 0), (30.0, 0)])
def test_fifteen_percent(files: Files, now: float, status: int) -> None:
    assert files.check(content({"a": entry(10.0)}), content({"a": entry(now)})) == status


def test_what_is_not_judged_does_not_regress(files: Files) -> None:
    baseline = content({"a": entry(10.0, judged=False)})
    assert files.check(baseline, content({"a": entry(2.0, judged=False)})) == 0
    assert files.check(baseline, content({})) == 1  # but it must not vanish


def test_one_good_run_of_three_is_enough(files: Files) -> None:
    runs = [content({"a": entry(ratio)}) for ratio in (5.0, 9.8, 7.0)]
    baseline = content({"a": entry(10.0)})
    assert files.check(baseline, *runs) == 0
    assert files.check(baseline, runs[0], runs[2]) == 1


def test_a_repeat_needs_only_what_it_repeats(files: Files) -> None:
    baseline = content({"a": entry(10.0), "b": entry(5.0)})
    first = content({"a": entry(4.0), "b": entry(5.0)})
    assert files.check(baseline, first, content({"a": entry(9.9)})) == 0


def test_missing_benchmark_fails(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = content({"a": entry(10.0), "gone": entry(3.0)})
    assert files.check(baseline, content({"a": entry(10.0)})) == 1
    assert "MISSING: gone" in capsys.readouterr().out
    assert files.again.read_text() == ""  # nothing to measure again


def test_short_runs_leave_out_slow_benchmarks_only(files: Files) -> None:
    baseline = content({"a": entry(10.0), "slow": entry(3.0, slow=True)})
    run = content({"a": entry(10.0)})
    assert files.check(baseline, run, short=True) == 0
    assert files.check(baseline, run) == 1
    assert files.check(baseline, content({"slow": entry(3.0, slow=True)}), short=True) == 1


def test_new_benchmark_is_told_not_failed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.check(content({"a": entry(10.0)}), content({"a": entry(10.0), "b": entry(1)})) == 0
    assert "new, not in the baseline: b" in capsys.readouterr().out


def test_other_environment_is_judged_less_strictly(files: Files) -> None:
    baseline = content({"a": entry(10.0)}, cpu="one")
    assert files.check(baseline, content({"a": entry(8.0)}, cpu="one")) == 1
    assert files.check(baseline, content({"a": entry(8.0)}, cpu="other")) == 0
    assert files.check(baseline, content({"a": entry(5.5)}, cpu="other")) == 1


def test_other_environment_is_told(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = content({"a": entry(10.0)}, distributed="2025.12.0", fastworker="0.1.0")
    run = content({"a": entry(10.0)}, distributed="2026.8.0", fastworker="0.2.0")
    assert files.check(baseline, run) == 0
    out = capsys.readouterr().out
    assert "saved with distributed 2025.12.0, this is 2026.8.0" in out
    assert "fastworker" not in out


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no mapping called 'ratios'"),
        ({"format": 1, "ratios": {}}, "no mapping called 'environment'"),
        ({"format": 9, "environment": {}, "ratios": {}}, "format 9, expected 1"),
        (content({"a": 3.0}), "a: expected a mapping, found 3.0"),
        (content({"a": entry(10.0, ratio="fast")}), "a: ratio must be a positive number"),
        (content({"a": entry(10.0, ratio=True)}), "a: ratio must be a positive number"),
        (content({"a": entry(10.0, ours=0)}), "a: ours must be a positive number, found 0"),
        (content({"a": entry(float("nan"))}), "a: ratio must be a positive number, found nan"),
        (content({"a": entry(10.0, test=None)}), "a: test must be a str"),
        (content({"a": entry(10.0, slow=0)}), "a: slow must be a bool"),
    ],
)
def test_malformed_file(
    files: Files, capsys: pytest.CaptureFixture[str], what: Any, message: str
) -> None:
    good = content({"a": entry(10.0)})
    for number, (baseline, run) in enumerate([(what, good), (good, what)]):
        assert files.check(baseline, run) == 2
        err = capsys.readouterr().err
        assert message in err
        assert ("baseline.json", "run-0.json")[number] in err
        assert len(err.splitlines()) == 1


def test_absent_file(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    run = files.write("run.json", content({"a": entry(10.0)}))
    assert bench_compare.main(["check", str(files.directory / "none.json"), str(run)]) == 2
    assert "none.json: No such file or directory" in capsys.readouterr().err


def test_save_takes_medians(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        files.write(f"run-{i}.json", content({"a": entry(ratio), "b": entry(2.0)}))
        for i, ratio in enumerate((9.0, 14.0, 10.0))
    ]
    baseline = files.directory / "saved.json"
    assert bench_compare.main(["save", str(baseline), *map(str, runs)]) == 0
    assert "2 ratios saved, medians of 3 run(s)" in capsys.readouterr().out
    saved = bench_compare.load(baseline)
    assert saved.figures["a"].ratio == 10.0
    assert saved.figures["a"].stock == 100.0
    assert bench_compare.main(["check", str(baseline), str(runs[1])]) == 0
    assert bench_compare.main(["check", str(baseline), str(runs[0])]) == 0


def test_as_a_script(files: Files) -> None:
    run = files.write("run.json", content({"a": entry(5.0)}))
    baseline = files.write("baseline.json", content({"a": entry(10.0)}))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "check", str(baseline), str(run)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "REGRESSED: a: 10.00 -> 5.00 (-50 %)" in done.stdout
