"""Ways in which the frames of a message can be damaged."""

from __future__ import annotations

from typing import NamedTuple

from support.wire.messages import ODD_TASKS, OTHERS, TASKS, frames_of

#: Bytes that mean something to MessagePack: the beginnings of values, and lengths.
TELLING = bytes(
    (0x00, 0x7F, 0x80, 0x81, 0x8F, 0x90, 0x91, 0x9F, 0xA0, 0xA1, 0xBF, 0xFF, *range(0xC0, 0xE1))
)


class Damage(NamedTuple):
    """One change to one frame; numbers are taken modulo what there is."""

    kind: int
    frame: int
    at: int
    length: int
    byte: int


def _flip(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    if data:
        data[d.at % len(data)] ^= 1 << (d.byte % 8)


def _put(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    if data:
        data[d.at % len(data)] = d.byte


def _tell(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    if data:
        data[d.at % len(data)] = TELLING[d.byte % len(TELLING)]


def _remove(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    at = d.at % (len(data) + 1)
    del data[at : at + d.length]


def _insert(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    at = d.at % (len(data) + 1)
    data[at:at] = bytes((TELLING[d.byte % len(TELLING)],)) * (1 + d.length)


def _repeat(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    at = d.at % (len(data) + 1)
    data[at:at] = data[at : at + d.length]


def _truncate(data: bytearray, d: Damage, _: list[bytearray]) -> None:
    del data[d.at % (len(data) + 1) :]


def _drop(data: bytearray, d: Damage, frames: list[bytearray]) -> None:
    del frames[d.frame % len(frames)]


def _swap(data: bytearray, d: Damage, frames: list[bytearray]) -> None:
    i, j = d.frame % len(frames), d.at % len(frames)
    frames[i], frames[j] = frames[j], frames[i]


def _splice(data: bytearray, d: Damage, frames: list[bytearray]) -> None:
    other = frames[d.byte % len(frames)]
    at = d.at % (len(data) + 1)
    data[at:at] = other[d.length : d.length + d.byte]


DAMAGES = (_flip, _put, _tell, _tell, _remove, _insert, _repeat, _truncate, _drop, _swap, _splice)


def _small() -> list[list[bytes]]:
    """The frames of all messages of some size, alone and in batches."""
    messages = {**TASKS, **ODD_TASKS, **OTHERS}
    out = []
    for name, message in messages.items():
        for batch in (message, [message], [message, TASKS["compute-task"], message]):
            frames = [bytes(frame) for frame in frames_of(batch)]
            if name != "long" and sum(map(len, frames)) < 5_000:
                out.append(frames)
    return out


REAL = _small()


def damaged(which: int, damages: list[Damage]) -> list[bytes]:
    """The frames of a real message after some damage."""
    frames = [bytearray(frame) for frame in REAL[which % len(REAL)]]
    for d in damages:
        if frames:
            # Most of what there is to get wrong is in the first frame
            i = 0 if d.frame < 8 else d.frame % len(frames)
            DAMAGES[d.kind % len(DAMAGES)](frames[i], d, frames)
    return [bytes(frame) for frame in frames]
