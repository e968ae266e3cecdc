"""Which room of the package may know which: every import and cimport is read from the sources."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from pathlib import Path

#: Each room, from the lowest floor up, and the rooms below that it may import from. A module at
#: the root is a room of its own.
MAY_KNOW = {
    "_version": "",
    "config": "",
    "core": "",
    "wire": "config",
    "comm": "config wire",
    "data": "config core",
    "scheduler": "config",
    "link": "config core wire comm",
    "transfer": "config core wire comm data",
    "execution": "config core data link",
    "control": "config core data execution",
    "monitoring": "_version config core comm execution",
    "worker": "config core comm data link transfer execution control monitoring",
    "nanny": "comm control link worker",
    "deploy": "_version control nanny scheduler worker",
    "__init__": "_version config comm core nanny scheduler worker deploy",
    "doctor": "config comm scheduler deploy __init__",
    "demo": "__init__ scheduler",
    "cli": "_version config comm link nanny deploy demo doctor",
    "__main__": "cli",
}

PACKAGE = Path(importlib.util.find_spec("fastworker").origin).parent
SOURCES = [path for path in PACKAGE.rglob("*.p[yx]*") if path.suffix in (".py", ".pyx", ".pxd")]
IMPORT = re.compile(
    r"^\s*(?:from (fastworker[\w.]*) c?import (\([^)]*\)|.*)|c?import (fastworker[\w.]*))",
    re.MULTILINE,
)


def room_of(path: Path) -> str:
    """The room that a source file is in."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a source file imports from, at its top or inside its functions."""
    rooms = set()
    for package, names, module in IMPORT.findall(path.read_text()):
        dotted = (package or module).split(".")
        if len(dotted) > 1:
            rooms.add(dotted[1])
        else:
            found = re.findall(r"\w+", re.sub(r"\bas \w+", "", names)) or ["__init__"]
            rooms.update(name if name in MAY_KNOW else "__init__" for name in found)
    return rooms


def test_every_room_is_in_the_table() -> None:
    assert {room_of(path) for path in SOURCES} == set(MAY_KNOW)


def test_no_room_knows_what_is_not_for_it() -> None:
    wrong = defaultdict(set)
    for path in SOURCES:
        room = room_of(path)
        unknown = rooms_imported(path) - {room} - set(MAY_KNOW[room].split())
        if unknown:
            wrong[str(path.relative_to(PACKAGE))] |= unknown
    assert not wrong


def test_what_a_room_may_know_it_does_know() -> None:
    """The table allows nothing that no module needs."""
    known = defaultdict(set)
    for path in SOURCES:
        known[room_of(path)] |= rooms_imported(path)
    spare = {room: set(may.split()) - known[room] for room, may in MAY_KNOW.items()}
    assert {room: rooms for room, rooms in spare.items() if rooms} == {}


def test_floors() -> None:
    """A room knows only rooms above it in the table: there is no circle."""
    rooms = list(MAY_KNOW)
    for room, may in MAY_KNOW.items():
        assert all(rooms.index(other) < rooms.index(room) for other in may.split()), room
