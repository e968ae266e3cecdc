"""Looks at the stack of a thread that changes all the time, while looking makes it go on.

Run as a process of its own: to look at frames that are gone may be the end of it.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

from fastworker.monitoring.stacks import copy_stacks

LOOKS = 1000


class Garbage:
    """Waits for the garbage collector, and then lets other threads run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(0)


def small(n, pattern):
    return (large if pattern & 1 else small)(n - 1, pattern >> 1) if n else 0


def large(n, pattern, a=1, b=2, c=3, d=4, e=5, f=6, g=7, h=8):
    return (large if pattern & 1 else small)(n - 1, pattern >> 1) if n else 0


def recurse(stop):
    """Go through frames of two sizes in ever new orders."""
    pattern = 1
    while not stop.is_set():
        pattern = pattern * 6364136223846793005 % 2**64
        small(40, pattern)


def main() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=recurse, args=(stop,))
    thread.start()
    sys.setswitchinterval(1e-4)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20)
    try:
        for _ in range(LOOKS):
            for _ in range(3):
                Garbage()
            [(ident, _value, frames)] = copy_stacks({thread.ident: "value"})
            assert ident == thread.ident
            names = [frame.f_code.co_name for frame in frames]
            assert {*names} <= {"large", "small", "is_set", "recurse", "run", *names[-2:]}, names
            assert names[-2:] == ["_bootstrap_inner", "_bootstrap"]
    finally:
        stop.set()


if __name__ == "__main__":
    main()
