"""A libFuzzer target: whatever bytes come, the decoder and distributed agree on them.

``ci/fuzz`` runs it, with the compiled modules built so that the fuzzer sees which of their
branches an input takes. An input is frames with SEPARATOR between them.

    python coverage_fuzzer.py CORPUS [libFuzzer's options]     look for more
    python coverage_fuzzer.py FILE [libFuzzer's options]       only this input again
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris
import numpy as np
from distributed.protocol import dumps, to_serialize

from fastworker.wire.result_messages import unpack
from support.wire.inert import compare, inert
from support.wire.mutations import REAL

RESULTS = [
    np.arange(4), np.ones((2, 3)), np.asfortranarray(np.ones((2, 3))), b"abc", 5, ["a", {1: 2.5}],
]  # fmt: skip
ANSWERS = [
    [bytes(f) for f in dumps({"status": "OK", "data": {"x": to_serialize(value), "y": 1}})]
    for value in RESULTS
]

SEPARATOR = b"\xfe\xf0\xff\xfe"

WORDS = [
    SEPARATOR,
    b"\x81\xab__Pickled__",
    b"\x81\xae__Serialized__",
    b"\x82\xa7__Set__\xc3\xa7as-list",
    b"\x84\xa8__Enum__",
    b"\xabpickled-obj",
    b"\xabcompression",
    b"\xaenum-sub-frames",
    b"\xa2op\xaccompute-task",
    b"\xa2op\xa9free-keys",
    b"\xa4keys",
    b"\xa3lz4",
    b"\xa4zlib",
    *(
        bytes((0xA0 | len(name),)) + name.encode()
        for name in (
            "key", "run_id", "priority", "stimulus_id", "who_has", "nbytes", "run_spec",
            "resource_restrictions", "actor", "annotations", "span_id",
        )
    ),
    *(bytes((kind,)) for kind in range(0xC0, 0xE0)),
    *(bytes((kind, *b"\xff\xff\xff\xff")) for kind in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF)),
]  # fmt: skip


def one(data: bytes) -> None:
    frames = data.split(SEPARATOR)
    compare(frames)
    with contextlib.suppress(Exception):  # whatever is said of it, nothing may break
        unpack(frames)


def seed(corpus: Path) -> Path:
    """Put the real messages into `corpus`; returns the file of words to make inputs from."""
    corpus.mkdir(parents=True, exist_ok=True)
    for i, frames in enumerate(REAL + ANSWERS):
        (corpus / f"real-{i}").write_bytes(SEPARATOR.join(frames))
    words = corpus.with_name(corpus.name + ".words")
    words.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS)
    )
    return words


def main() -> None:
    argv = sys.argv[:]
    start = Path(argv[1])
    if not start.is_file():
        argv.append(f"-dict={seed(start)}")
    atheris.Setup(argv, one)
    with inert():
        atheris.Fuzz()


if __name__ == "__main__":
    main()
