"""Memory for messages: aligned, released piece by piece, kept only for a while."""

from __future__ import annotations

import ctypes
import time

import psutil
import pytest

from fastworker.comm.arena import ALIGNMENT, MAPPED_FROM, Block, bytes_kept, keep_at_most

SIZES = [0, 1, 100, MAPPED_FROM - 1, MAPPED_FROM, 1 << 20, (2 << 20) - 1, 2 << 20, (9 << 20) + 17]


@pytest.fixture(autouse=True)
def nothing_kept():
    keep_at_most(0)
    yield
    keep_at_most(0)


def address(piece: Block) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(piece))


def rss() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("nbytes", SIZES)
def test_pieces(nbytes):
    piece = Block(nbytes)
    view = memoryview(piece)
    assert len(piece) == view.nbytes == nbytes
    assert not view.readonly
    assert view.format == "B"
    assert view.obj is piece
    if nbytes:
        assert address(piece) % ALIGNMENT == 0
        view[-1] = view[0] = 7
        assert view[-1] == 7


def test_impossible_sizes():
    with pytest.raises(ValueError, match="-1"):
        Block(-1)
    with pytest.raises(MemoryError, match=str(1 << 62)):
        Block(1 << 62)


def test_memory_costs_what_was_written_to():
    before = rss()
    piece = Block(1 << 30)
    assert rss() - before < 16 << 20
    view = memoryview(piece)
    view[: 64 << 20] = bytes(64 << 20)
    assert rss() - before < 80 << 20
    del view, piece
    assert rss() - before < 16 << 20


def test_a_view_keeps_its_piece():
    view = memoryview(Block(4 << 20))[5:10]
    view[:] = b"hello"
    for _ in range(3):
        memoryview(Block(4 << 20))[:] = bytes(4 << 20)
    assert view == b"hello"


@pytest.mark.parametrize("nbytes", [2 * MAPPED_FROM, 1 << 20, 10 << 20])
def test_a_piece_is_used_again(nbytes):
    keep_at_most(64 << 20)
    piece = Block(nbytes)
    where = address(piece)
    del piece
    assert nbytes <= bytes_kept() <= nbytes + 4096
    again = Block(nbytes - nbytes // 64)
    assert address(again) == where
    assert bytes_kept() == 0
    other = Block(nbytes)
    assert address(other) != where
    del again


def test_no_piece_is_in_use_twice():
    """Pieces of many sizes come and go; what was written to each of them stays."""
    import random

    rng = random.Random(3)
    keep_at_most(32 << 20)
    live: list[tuple[memoryview, int]] = []
    for i in range(3000):
        if len(live) > 60 or (live and rng.random() < 0.45):
            view, mark = live.pop(rng.randrange(len(live)))
            assert view[0] == view[-1] == mark
            assert view[len(view) // 2] == mark
        else:
            nbytes = rng.choice([MAPPED_FROM, 200_000, 1 << 20, 1_500_000, 3 << 20, 9 << 20])
            view = memoryview(Block(nbytes))
            mark = i % 256
            view[0] = view[-1] = view[nbytes // 2] = mark
            live.append((view, mark))
        assert bytes_kept() <= 32 << 20


def test_many_small_pieces_are_released_one_by_one():
    """They share mappings, but not their fate."""
    before = rss()
    pieces = [Block(1 << 20) for _ in range(300)]
    for piece in pieces:
        memoryview(piece)[:] = bytes(1 << 20)
    full = rss() - before
    assert full > 290 << 20
    del pieces[::2], piece
    assert rss() - before < full - (120 << 20)
    for piece in pieces:
        assert memoryview(piece)[-1] == 0
    del pieces, piece
    assert rss() - before < 40 << 20


def test_no_more_is_kept_than_allowed():
    keep_at_most(10 << 20)
    pieces = [Block(3 << 20) for _ in range(8)]
    del pieces
    assert 6 << 20 <= bytes_kept() <= 10 << 20
    del_me = Block(11 << 20)
    assert bytes_kept() == 0
    del del_me
    assert bytes_kept() == 0
    keep_at_most(64 << 20)
    pieces = [Block(3 << 20) for _ in range(8)]
    del pieces
    assert bytes_kept() == 24 << 20
    keep_at_most(5 << 20)
    assert bytes_kept() == 3 << 20


def test_what_is_kept_is_forgotten():
    keep_at_most(64 << 20)
    Block(8 << 20)
    assert bytes_kept() == 8 << 20
    deadline = time.monotonic() + 20
    while bytes_kept() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert bytes_kept() == 0
