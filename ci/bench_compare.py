"""Compare the ratios of benchmark runs with the saved ones.

    bench_compare.py check BASELINE RUN [RUN ...]   exit 1 if a ratio got worse by more than 15 %,
                                                    or 40 % of a baseline from another environment,
                                                    or 8 % where it is one of memory of jobs
    bench_compare.py save BASELINE RUN [RUN ...]    make the runs' medians the new baseline

A ratio says how many times stock's figure is of ours, so smaller is worse. `check` judges each
benchmark on its best run: noise spoils a run here and there, a regression spoils all of them.
``ci/bench`` repeats the benchmarks that look bad (`--again` lists their tests) and checks
once more.

Exit status: 0 no regression, 1 a regression or a benchmark that vanished, 2 a file that cannot be
used.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
TOLERANCE = 0.15
#: Where the baseline comes from another processor, Python or distributed, ratios differ by more
#: than a regression is worth; only a large one can be told apart.
TOLERANCE_ELSEWHERE = 0.4
#: Figures of these benchmarks by the start of their names may get worse by this share, wherever the
#: baseline is from: memory hardly depends on the machine, and runs differ by some hundredths.
TOLERANCE_OF = {"job-memory/": 0.08}


class BadFile(Exception):
    """A file of ratios that is missing, damaged or of another format."""


@dataclass(frozen=True)
class Figure:
    """One benchmark's outcome: `ratio` is stock / ours, `test` the pytest node that measures it.

    One that is not `judged` cannot regress.
    """

    ratio: float
    stock: float
    ours: float
    unit: str
    test: str
    slow: bool
    judged: bool


@dataclass
class Ratios:
    """The contents of one file."""

    environment: dict[str, str]
    figures: dict[str, Figure]


@dataclass
class Verdict:
    """What became of every benchmark; the sets hold names."""

    regressed: dict[str, tuple[float, float]] = field(default_factory=dict)
    improved: dict[str, tuple[float, float]] = field(default_factory=dict)
    steady: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)

    @property
    def failed(self) -> bool:
        return bool(self.regressed or self.missing)


def load(path: Path) -> Ratios:
    """Read a file of ratios; BadFile says what is wrong with one that cannot be used."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise BadFile(f"{path}: {e.strerror or e}") from None
    except ValueError as e:
        raise BadFile(f"{path}: not JSON: {e}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("ratios"), dict):
        raise BadFile(f"{path}: not a file of ratios: there is no mapping called 'ratios'")
    if raw.get("format") != FORMAT:
        raise BadFile(f"{path}: format {raw.get('format')!r}, expected {FORMAT}")
    environment = raw.get("environment")
    if not isinstance(environment, dict):
        raise BadFile(f"{path}: there is no mapping called 'environment'")
    return Ratios(
        environment={str(k): str(v) for k, v in environment.items()},
        figures={name: _figure(path, name, entry) for name, entry in raw["ratios"].items()},
    )


def _figure(path: Path, name: str, entry: Any) -> Figure:
    if not isinstance(entry, dict):
        raise BadFile(f"{path}: {name}: expected a mapping, found {entry!r}")
    for key in ("ratio", "stock", "ours"):
        value = entry.get(key)
        if not _positive(value):
            raise BadFile(f"{path}: {name}: {key} must be a positive number, found {value!r}")
    for key, kind in (("unit", str), ("test", str), ("slow", bool), ("judged", bool)):
        if not isinstance(entry.get(key), kind):
            raise BadFile(f"{path}: {name}: {key} must be a {kind.__name__}")
    return Figure(**{key: entry[key] for key in Figure.__dataclass_fields__})


def _positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def tolerance_of(name: str, others: float) -> float:
    """By how much the benchmark of that name may get worse, as a share; most by ``others``."""
    for start, tolerance in TOLERANCE_OF.items():
        if name.startswith(start):
            return tolerance
    return others


def compare(
    baseline: Ratios, runs: Sequence[Ratios], tolerance: float = TOLERANCE, short: bool = False
) -> Verdict:
    """Judge the best of `runs` against `baseline`, benchmark by benchmark.

    With `short`, slow benchmarks may be absent from the runs. `tolerance` is that of all but the
    benchmarks that have one of their own.
    """
    best: dict[str, float] = {}
    for run in runs:
        for name, figure in run.figures.items():
            best[name] = max(figure.ratio, best.get(name, 0.0))
    verdict = Verdict(new=set(best) - set(baseline.figures))
    for name, saved in baseline.figures.items():
        allowed = tolerance_of(name, tolerance)
        if name not in best:
            if not (short and saved.slow):
                verdict.missing.add(name)
        elif saved.judged and best[name] < saved.ratio * (1 - allowed):
            verdict.regressed[name] = saved.ratio, best[name]
        elif best[name] > saved.ratio * (1 + allowed):
            verdict.improved[name] = saved.ratio, best[name]
        else:
            verdict.steady.add(name)
    return verdict


def median_of(runs: Sequence[Ratios]) -> dict[str, Figure]:
    """For every benchmark the run whose ratio is the (lower) median."""
    names = sorted({name for run in runs for name in run.figures})
    out = {}
    for name in names:
        figures = [run.figures[name] for run in runs if name in run.figures]
        middle = statistics.median_low(f.ratio for f in figures)
        out[name] = next(f for f in figures if f.ratio == middle)
    return out


def differences(baseline: Ratios, run: Ratios) -> list[str]:
    """In what the environments differ, but for our own version."""
    return [
        f"{key} {saved}, this is {run.environment.get(key, 'unknown')}"
        for key, saved in baseline.environment.items()
        if key != "fastworker" and run.environment.get(key) != saved
    ]


def report(verdict: Verdict, baseline: Ratios, run: Ratios) -> list[str]:
    """The verdict in lines of text, worst news last."""
    lines = [
        f"note: the baseline was saved with {difference}; a difference may come from that"
        for difference in differences(baseline, run)
    ]
    lines += [f"new, not in the baseline: {name}" for name in sorted(verdict.new)]
    lines += [
        f"improved: {name}: {was:.2f} -> {now:.2f}"
        for name, (was, now) in sorted(verdict.improved.items())
    ]
    lines += [
        f"MISSING: {name}: in the baseline but not in this run; "
        "if it was removed on purpose, save a new baseline"
        for name in sorted(verdict.missing)
    ]
    lines += [
        f"REGRESSED: {name}: {was:.2f} -> {now:.2f} ({100 * (now / was - 1):.0f} %)"
        for name, (was, now) in sorted(verdict.regressed.items())
    ]
    lines.append(
        f"{len(verdict.steady)} steady, {len(verdict.improved)} improved, "
        f"{len(verdict.new)} new, {len(verdict.missing)} missing, "
        f"{len(verdict.regressed)} regressed"
    )
    return lines


def check(args: argparse.Namespace) -> int:
    baseline, runs = load(args.baseline), [load(path) for path in args.runs]
    tolerance = args.tolerance
    if tolerance is None:
        tolerance = TOLERANCE_ELSEWHERE if differences(baseline, runs[0]) else TOLERANCE
    verdict = compare(baseline, runs, tolerance, args.short)
    print("\n".join(report(verdict, baseline, runs[0])))
    if args.again is not None:
        tests = sorted({baseline.figures[name].test for name in verdict.regressed})
        args.again.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
    return int(verdict.failed)


def save(args: argparse.Namespace) -> int:
    runs = [load(path) for path in args.runs]
    figures = median_of(runs)
    content = {
        "format": FORMAT,
        "environment": runs[0].environment,
        "ratios": {name: vars(figure) for name, figure in figures.items()},
    }
    args.baseline.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{args.baseline}: {len(figures)} ratios saved, medians of {len(runs)} run(s)")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, function in (("check", check), ("save", save)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("baseline", type=Path)
        command.add_argument("runs", type=Path, nargs="+", metavar="run")
        if function is check:
            command.add_argument("--tolerance", type=float, metavar="SHARE")
            command.add_argument(
                "--short", action="store_true", help="slow benchmarks were left out"
            )
            command.add_argument(
                "--again", type=Path, metavar="FILE", help="list the tests of what regressed here"
            )
    args = parser.parse_args(argv)
    try:
        return int(args.function(args))
    except BadFile as e:
        print(e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
