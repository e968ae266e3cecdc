"""Find the section of a release in the changelog, and make the section "Unreleased" one.

    changelog.py FILE VERSION

A heading "## Unreleased" becomes "## VERSION (DATE)", unless there is one for VERSION already. What
the section says goes to stdout, headed by the name of the release: the text of the tag.

Exit status: 0 all is well, 1 there is no section, two of them, or nothing in it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path


class NoSection(Exception):
    """The changelog has no section that could be the release's; the text says why."""


def release(text: str, version: str, date: str) -> tuple[str, str]:
    """The changelog with a section for ``version``, and what that section says.

    Raises NoSection.
    """
    names = rf"(Unreleased|{re.escape(version)}(?: .*)?)"
    found = list(re.finditer(rf"^## {names}$", text, re.MULTILINE))
    if len(found) != 1:
        count = "more than one" if found else "none"
        raise NoSection(f"one heading '## Unreleased' or '## {version}' is needed, it has {count}")
    before, heading, after = text[: found[0].start()], found[0][0], text[found[0].end() :]
    notes = re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not notes:
        raise NoSection(f"nothing stands below '{heading}'")
    if heading == "## Unreleased":
        heading = f"## {version} ({date})"
    return before + heading + after, notes


def main(args: Sequence[str]) -> int:
    path, version = Path(args[0]), args[1]
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    try:
        text, notes = release(path.read_text(encoding="utf-8"), version, date)
    except NoSection as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    path.write_text(text, encoding="utf-8")
    print(f"fastworker {version}\n\n{notes}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
