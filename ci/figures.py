"""Write the figures of bench/ratios.json into the tables of README.md and docs/benchmarks.md.

    figures.py            rewrite the tables
    figures.py --check    change nothing; name the rows that are not as they should be

Between ``<!-- figures -->`` and ``<!-- /figures -->`` each row of a table has four cells: what was
measured, stock's figure, fastworker's, and their ratio. Its last cell names the benchmarks of the
figures, ``<!-- worker/flood-cpu -->``, or says ``<!-- by hand -->``; such a row is left alone. In a
table without a column "ratio", each benchmark of a row has a cell of its own after stock's, with
its ratio.

Exit status: 0 all right, 1 wrong figures (with --check), 2 a page or file that cannot be used.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_compare import BadFile, Figure, load

ROOT = Path(__file__).parents[1]
RATIOS = ROOT / "bench" / "ratios.json"
PAGES = [ROOT / "README.md", ROOT / "docs" / "benchmarks.md"]

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
BY_HAND = "by hand"
SOURCE = re.compile(r"<!-- (.+?) -->")
#: By unit in bench/ratios.json: the unit to print, and the one of a thousand of it.
UNITS = {"us": ("µs", "ms"), "ms": ("ms", "s"), "bytes": ("B", "kB"), "MB": ("MB", "GB")}


def rewritten(text: str, figures: Mapping[str, Figure]) -> str:
    """A page with the figures in its tables; BadFile for a row that cannot be filled in."""
    lines = text.split("\n")
    inside = with_ratios = False
    for number, line in enumerate(lines):
        if line.strip() in (BEGIN, END):
            inside = line.strip() == BEGIN
        elif inside and line.startswith("|"):
            if not _is_head(lines, number):
                lines[number] = _row(line, figures, with_ratios)
            elif not line.startswith("|---"):
                with_ratios = line.split("|")[-2].strip() == "ratio"
    if inside or BEGIN not in text:
        raise BadFile(f"no table between {BEGIN} and {END}")
    return "\n".join(lines)


def _is_head(lines: Sequence[str], number: int) -> bool:
    """Whether a line is the head of a table or the rule below it."""
    return any(line.startswith("|---") for line in lines[number : number + 2])


def _row(line: str, figures: Mapping[str, Figure], with_ratios: bool) -> str:
    source = SOURCE.search(line)
    if source is None:
        raise BadFile(f"a row does not say where its figures are from: {line}")
    if source[1] == BY_HAND:
        return line
    unknown = [name for name in source[1].split() if name not in figures]
    if unknown:
        raise BadFile(f"no benchmark {', '.join(unknown)} in the file of ratios: {line}")
    found = [figures[name] for name in source[1].split()]
    label = line.split("|")[1].strip()
    if not with_ratios:
        return _row_of_steps(label, found, source[0])
    stock = _joined([_with_unit(figure.stock, figure.unit) for figure in found])
    ours = _joined([_with_unit(figure.ours, figure.unit) for figure in found])
    ratio = ", ".join(number(figure.ratio) for figure in found)
    return f"| {label} | {stock} | {ours} | {ratio} {source[0]} |"


def _row_of_steps(label: str, found: Sequence[Figure], source: str) -> str:
    """Stock's figure, then one cell for each of ``found``, which are compared with the same."""
    cells = [label, " ".join(_with_unit(found[0].stock, found[0].unit))]
    for figure in found:
        value, unit = _with_unit(figure.ours, figure.unit)
        cells.append(f"{value} {unit} ({number(figure.ratio)})")
    return f"| {' | '.join(cells)} {source} |"


def number(value: float) -> str:
    """A number of at least 0 with three significant digits."""
    if value == 0:
        return "0"
    value = float(f"{value:.2e}")  # 9.996 is 10.0
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}"


def _with_unit(value: float, unit: str) -> tuple[str, str]:
    small, large = UNITS.get(unit.partition("/")[0], (unit, ""))
    if large and float(f"{value:.2e}") >= 1000:
        return number(value / 1000), large
    return number(value), small


def _joined(parts: Sequence[tuple[str, str]]) -> str:
    """Numbers with their units; one unit for all if they share it."""
    units = {unit for _, unit in parts}
    if len(units) == 1:
        return f"{', '.join(text for text, _ in parts)} {units.pop()}"
    return ", ".join(" ".join(part) for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--ratios", type=Path, default=RATIOS)
    parser.add_argument("pages", type=Path, nargs="*", default=PAGES, metavar="page")
    args = parser.parse_args(argv)
    wrong = False
    try:
        figures = load(args.ratios).figures
        for page in args.pages:
            text = page.read_text(encoding="utf-8")
            try:
                right = rewritten(text, figures)
            except BadFile as error:
                raise BadFile(f"{page}: {error}") from None
            if args.check:
                for old, new in zip(text.split("\n"), right.split("\n"), strict=True):
                    if old != new:
                        wrong = True
                        print(f"{page}: is:        {old}\n{page}: should be: {new}")
            elif right != text:
                page.write_text(right, encoding="utf-8")
    except BadFile as error:
        print(error, file=sys.stderr)
        return 2
    if wrong:
        print("run 'python ci/figures.py'")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
