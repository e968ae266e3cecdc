"""A plot of some figures over time, as an SVG file: one panel below the other."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT, MARGIN = 800, 150, 60


def write_plot(file: Path, xs: list[float], columns: dict[str, list[float]], x_label: str) -> None:
    """Write one panel for each of ``columns``, all of them over ``xs``; each starts at 0."""
    total = len(columns) * (HEIGHT + 20) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * MARGIN}" height="{total}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH + 2 * MARGIN}" height="{total}" fill="white"/>',
    ]
    for number, (name, ys) in enumerate(columns.items()):
        top = 20 + number * (HEIGHT + 20)
        parts += _panel(top, name, xs, ys)
    parts.append(f'<text x="{MARGIN + WIDTH}" y="{total - 8}">{xs[-1]:.1f} {x_label}</text></svg>')
    file.write_text("\n".join(parts))


def _panel(top: int, name: str, xs: list[float], ys: list[float]) -> list[str]:
    most = max(ys) * 1.1 or 1.0
    span = xs[-1] or 1.0
    points = " ".join(
        f"{MARGIN + WIDTH * x / span:.1f},{top + HEIGHT * (1 - y / most):.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    box = f'x="{MARGIN}" y="{top}" width="{WIDTH}" height="{HEIGHT}"'
    return [
        f'<rect {box} fill="none" stroke="#bbb"/>',
        f'<text x="{MARGIN + 8}" y="{top + 16}">{name}</text>',
        f'<text x="4" y="{top + 12}">{most:.4g}</text><text x="4" y="{top + HEIGHT}">0</text>',
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>',
    ]
