"""The blocks of docs/recipes.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
SECTION = re.compile(r"^#{2,3} (.*)\n((?:(?!#{2,3} ).*\n?)*)", re.MULTILINE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: The address that stands for a scheduler of the reader's.
SOME_SCHEDULER = "tcp://10.0.0.1:8786"


def blocks(heading: str, language: str) -> list[str]:
    """The blocks in this language of the section with this heading."""
    sections = dict(SECTION.findall(PAGE.read_text()))
    return [text for kind, text in BLOCK.findall(sections[heading]) if kind == language]


def block(heading: str, language: str) -> str:
    """The one block in this language of the section with this heading."""
    [text] = blocks(heading, language)
    return text
