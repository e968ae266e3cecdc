"""The client of test_networks, in a process of its own on one of the hosts.

    python job_across_hosts.py ADDRESS tree|fetch

Prints ``ready`` once both workers are there, and ``right`` once it has the result. ``fetch`` prints
``made`` in between, when all is made on the worker named b and the worker named a is about to ask
for it.
"""

from __future__ import annotations

import sys

import numpy as np
from distributed import Client, wait

TIMEOUT = 100.0
"""Seconds; what takes longer than that has stopped."""
PIECES = 60
PIECE = 1 << 20
"""Bytes."""


def piece(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, PIECE, dtype="u1")


def together(*arrays: np.ndarray) -> np.ndarray:
    return np.bitwise_xor.reduce(arrays)


def tree(client: Client) -> np.ndarray:
    """Leaves on both workers, so that inputs and results cross the cable both ways."""
    layer = [client.submit(piece, i, workers="ab"[i % 2]) for i in range(PIECES)]
    while len(layer) > 1:
        pairs = [layer[i : i + 2] for i in range(0, len(layer), 2)]
        layer = [client.submit(together, *pair) for pair in pairs]
    return layer[0].result(TIMEOUT)


def fetch(client: Client) -> np.ndarray:
    """All leaves on b, if only that is there."""
    options = {"workers": "b", "allow_other_workers": True}
    leaves = [client.submit(piece, i, **options) for i in range(PIECES)]
    wait(leaves, TIMEOUT)
    total = client.submit(together, *leaves, workers="a")
    print("made", flush=True)
    return total.result(TIMEOUT)


def main() -> None:
    address, which = sys.argv[1:]
    with Client(address, timeout=TIMEOUT) as client:
        client.wait_for_workers(2, 40)
        print("ready", flush=True)
        result = {"tree": tree, "fetch": fetch}[which](client)
    np.testing.assert_array_equal(result, together(*map(piece, range(PIECES))))
    print("right", flush=True)


if __name__ == "__main__":
    main()
