TRANSITIONS: frozenset[tuple[str, str]]
