"""One end of a connection in a process of its own, for tests of networks.

    python peer.py serve HOST MAKE
    python peer.py fetch ADDRESS MAKE COUNT NBYTES
    python peer.py idle ADDRESS MAKE

``serve`` prints its address, then a line for each connection that ends. The others print
``connected``. Then ``fetch`` prints a line for each array that arrived as it should, then ``done``
or the error that ended it; ``idle`` waits for such an error.
"""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np
from distributed.comm import connect, listen
from distributed.protocol import to_serialize

from fastworker.comm import use


def array_of(i: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, nbytes, dtype="u1")


async def serve(host: str) -> None:
    async def handle(comm):
        try:
            while True:
                i, nbytes = await comm.read()
                await comm.write({"i": i, "array": to_serialize(array_of(i, nbytes))})
        except OSError as error:
            print("ended:", type(error).__name__, error, flush=True)
            comm.abort()

    listener = await listen(f"tcp://{host}:0", handle)
    print(listener.contact_address, flush=True)
    await asyncio.Event().wait()


async def fetch(address: str, count: int, nbytes: int) -> None:
    comm = await connect(address, timeout=30)
    print("connected", flush=True)
    started = time.monotonic()
    try:
        for i in range(count):
            await comm.write((i, nbytes))
            message = await comm.read()
            assert message["i"] == i
            np.testing.assert_array_equal(message["array"], array_of(i, nbytes))
            print(i, flush=True)
        await comm.close()
        print("done", flush=True)
    except OSError as error:
        print(
            f"{type(error).__name__} after {time.monotonic() - started:.1f} s:", error, flush=True
        )


async def idle(address: str) -> None:
    comm = await connect(address, timeout=30)
    print("connected", flush=True)
    try:
        await comm.read()
    except OSError as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    what, where, make, *numbers = sys.argv[1:]
    use(make)
    role = {"serve": serve, "fetch": fetch, "idle": idle}[what]
    asyncio.run(role(where, *map(int, numbers)))
