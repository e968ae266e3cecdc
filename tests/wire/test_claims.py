"""Compressed frames that lie about their size."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from distributed.protocol.compression import compressions

from fastworker.wire.claims import CLAIMS, check_claims

FORMATS = sorted(set(CLAIMS) & set(compressions)) or [
    pytest.param("lz4", marks=pytest.mark.skip("no format that makes claims is installed"))
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "data",
    [b"", b"x", bytes(50_000_000), b"abc" * 1_000_000, os.urandom(100_000)],
    ids=["empty", "a-byte", "zeros", "a-pattern", "noise"],
)
def test_what_is_true_is_taken(name, data):
    """Also of what compresses best of all."""
    frame = compressions[name].compress(data)
    assert CLAIMS[name].read(memoryview(frame)) == len(data)
    check_claims((name, None, False), (frame, b"", b"xyz"))


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("lz4", b"\xff\xff\xff\x7f" + bytes(100)),
        ("lz4", b"\x01"),
        ("snappy", b"\xff\xff\xff\xff\x0f" + bytes(100)),
        ("zstd", b"\x28\xb5\x2f\xfd\xe0" + b"\x00\x00\x00\x00\x00\x10\x00\x00" + bytes(100)),
    ],
)
def test_what_cannot_be_is_refused(name, frame):
    if name not in CLAIMS:
        pytest.skip(f"{name} is not installed")
    tracemalloc.start()
    try:
        if len(frame) > 1:
            with pytest.raises(ValueError, match=rf"^{len(frame)} bytes of {name} cannot be \d+$"):
                check_claims((name,), (frame,))
        else:
            check_claims((name,), (frame,))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_unknown_names_are_left_to_others():
    check_claims(("unknown", None, 5, ("lz4",)), (b"\xff" * 10,) * 4)
