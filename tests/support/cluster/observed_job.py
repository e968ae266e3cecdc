"""A job with something of everything that a cluster shows of its tasks; workers import it."""

from __future__ import annotations

import asyncio
import os
import time

from distributed import secede
from distributed.metrics import context_meter


def spin(seconds):
    """Busy for so long, in a function of its own."""
    stop = time.monotonic() + seconds
    total = 0
    while time.monotonic() < stop:
        total += count_up()
    return min(total, 1)


def count_up():
    return sum(range(10_000))


def double(x):
    return 2 * x


def fail(x):
    raise ValueError(x)


async def wait_a_little(x):
    await asyncio.sleep(0.01)
    return x


def report(value):
    """Reports figures of its own."""
    context_meter.digest_metric("reading", value, "records")
    with context_meter.meter("reading"):
        time.sleep(0.01)
    return value


def report_and_fail(value):
    context_meter.digest_metric("reading", value, "records")
    context_meter.digest_metric("reading", 0.5, "seconds")
    raise ValueError(value)


def hold(path):
    """Runs until there is a file at that path."""
    return wait_for_file(path)


def hold_outside(path):
    """The same, outside of the thread pool."""
    secede()
    return wait_for_file(path)


def wait_for_file(path):
    stop = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > stop:
            raise TimeoutError(path)
        time.sleep(0.01)
    return os.path.basename(path)
