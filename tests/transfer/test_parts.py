"""Fetcher and ResultServer, between two state machines that have no scheduler."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from distributed.comm import CommClosedError
from distributed.core import Status
from distributed.metrics import DelayedMetricsLedger
from distributed.utils_test import captured_logger
from distributed.worker_state_machine import (
    AcquireReplicasEvent,
    GatherDepBusyEvent,
    GatherDepFailureEvent,
    GatherDepNetworkFailureEvent,
    GatherDepSuccessEvent,
)
from distributed.worker_state_machine import WorkerState as TheirWorkerState

from fastworker.core.partial import GatherDepPartialEvent
from support.bare_worker import BareWorker
from support.comm.pairs import registered, run
from support.in_process import until


class Unwelcome:
    """A result that cannot be unpickled."""

    def __reduce__(self):
        return int, ("not a number",)


class Textless(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


def raise_textless():
    raise Textless


class UnwelcomeWithoutText:
    """A result whose unpickling raises an error that cannot be described."""

    def __reduce__(self):
        return raise_textless, ()


@pytest.fixture(params=["native", "tornado"])
def between_two(request):
    """A decorator that runs ``async def test(here, there)``, with this make of connections."""

    def decorate(test):
        async def with_both():
            async with AsyncExitStack() as stack:
                here, there = [await stack.enter_async_context(BareWorker()) for _ in range(2)]
                await test(here, there)

        with registered(request.param):
            run(with_both())

    return decorate


def want(here, there, *keys):
    """Have the state machine begin to fetch."""
    here.handle_stimulus(
        AcquireReplicasEvent(
            who_has={key: [there.address] for key in keys},
            nbytes=dict.fromkeys(keys, 28),
            stimulus_id="want",
        )
    )


async def fetch(here, there, *keys):
    """The event that ends a transfer; the state machine is told neither of that nor of the end."""
    here.gather_dep = lambda *args, **kwargs: asyncio.sleep(3600)
    want(here, there, *keys)
    return await here.fetcher.fetch(there.address, keys, 28 * len(keys), "fetch")


async def check_unreadable(here, there, bad, text):
    """A transfer of this and of a good result brings the good one, and says of this why not."""
    there.put(bad=bad, good=1)
    event = await fetch(here, there, "bad", "good")
    assert type(event) is GatherDepPartialEvent and event.data == {"good": 1}
    assert text in event.unreadable["bad"]["exception_text"]


def test_what_is_wanted_comes(between_two):
    @between_two
    async def test(here, there):
        there.put(x=1, y="two", z=3)
        want(here, there, "x", "y", "gone")
        await until(lambda: here.data == {"x": 1, "y": "two"})
        await until(lambda: there.transfer_outgoing_log)
        (entry,) = there.transfer_outgoing_log
        assert entry["who"] == here.address and set(entry["keys"]) == {"x", "y"}
        assert there.transfer_outgoing_bytes_total == entry["total"] > 0
        assert there.transfer_outgoing_count_total == 1
        assert there.transfer_outgoing_count == there.transfer_outgoing_bytes == 0
        (entry,) = here.transfer_incoming_log
        assert entry["who"] == there.address
        assert ("get-data", "network", "seconds") in there.digests_total
        assert ("gather-dep", "network", "seconds") in here.digests_total
        said = {(message["op"], key) for message in here.sent for key in message.get("keys", ())}
        assert said == {("add-keys", "x"), ("add-keys", "y")}
        assert here.state.tasks["gone"].state == "missing"


def test_a_peer_that_is_busy(between_two):
    @between_two
    async def test(here, there):
        there.put(x=1)
        there.transfer_outgoing_count_limit = 2
        there.transfer_outgoing_count = 4  # twice as many within a host
        assert type(await fetch(here, there, "x")) is GatherDepBusyEvent
        there.transfer_outgoing_count = 3
        assert (await fetch(here, there, "x")).data == {"x": 1}
        await until(lambda: there.transfer_outgoing_count == 3)
        there.transfer_outgoing_count_limit = False
        there.status = Status.paused
        with captured_logger("distributed.worker", level=logging.DEBUG) as log:
            assert type(await fetch(here, there, "x")) is GatherDepBusyEvent
        assert "(3/1). Throttling outgoing data transfers because worker is paused." in (
            log.getvalue()
        )
        there.transfer_outgoing_count = 0
        assert type(await fetch(here, there, "x")) is GatherDepSuccessEvent


def test_a_peer_that_goes_away(between_two):
    @between_two
    async def test(here, there):
        there.put(x=1)
        there.handlers["get_data"] = lambda comm, **message: comm.abort()
        with captured_logger("distributed.worker") as log:
            assert type(await fetch(here, there, "x")) is GatherDepNetworkFailureEvent
        assert f"Worker stream died during communication: {there.address}" in log.getvalue()


def test_a_worker_that_closes_asks_for_nothing(between_two):
    @between_two
    async def test(here, there):
        there.put(x=1)
        here.status = Status.closing
        event = await fetch(here, there, "x")
        assert type(event) is GatherDepFailureEvent
        assert "Worker is shutting down" in event.exception_text
        assert there.transfer_outgoing_count_total == 0


def test_what_cannot_be_read_takes_nothing_along(between_two):
    @between_two
    async def test(here, there):
        there.put(bad=Unwelcome(), x=1, y=2)
        with captured_logger("fastworker.data") as log:
            want(here, there, "bad", "x", "y")
            await until(lambda: here.data == {"x": 1, "y": 2} and "bad" not in here.state.tasks)
        assert "fetching one by one" in log.getvalue()
        assert ("gather-dep", "failed", "seconds") not in here.digests_total


def test_an_error_without_a_text_takes_nothing_along(between_two):
    @between_two
    async def test(here, there):
        await check_unreadable(here, there, UnwelcomeWithoutText(), "unpickling raised Textless")


class Outcome(BaseException):
    """As those of test runners and of other event loops: no ``Exception``."""


class Raises:
    """A result whose unpickling raises this."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return raise_again, (self.error,)


def raise_again(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [CommClosedError("says the result"), OSError("says the result"), Outcome("says the result")],
)
def test_an_error_that_looks_like_one_of_the_connection(between_two, error):
    """With distributed's worker the first is fetched for ever, and the last never ends."""

    @between_two
    async def test(here, there):
        await check_unreadable(here, there, Raises(error), "says the result")
        assert (await here.fetcher.fetch(there.address, ["good"], 28, "again")).data == {"good": 1}


class NotToBePickled:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [CommClosedError("says the result"), Outcome("says the result")])
def test_an_error_of_pickling_that_closes_no_connection(between_two, error):
    @between_two
    async def test(here, there):
        await check_unreadable(here, there, NotToBePickled(error), "says the result")


def test_a_transfer_without_a_readable_result_counts_as_failed(between_two):
    @between_two
    async def test(here, there):
        there.put(bad=Unwelcome(), good=1)
        ledger = DelayedMetricsLedger()
        with ledger.record():
            event = await fetch(here, there, "bad")
        assert type(event) is GatherDepPartialEvent and event.data == {}
        assert "not a number" in event.unreadable["bad"]["exception_text"]
        assert here.fetcher.meter_if_nothing_made(event, ledger)
        assert ("gather-dep", "failed", "seconds") in here.digests_total
        event = await fetch(here, there, "good")
        assert not here.fetcher.meter_if_nothing_made(event, ledger)


def test_another_state_machine_hears_of_a_failed_transfer(between_two):
    """It would ask again, for ever, for what a success has not brought."""

    @between_two
    async def test(here, there):
        async with BareWorker(state_class=TheirWorkerState) as theirs:
            there.put(bad=Unwelcome(), good=1)
            event = await fetch(theirs, there, "bad", "good")
            assert type(event) is GatherDepFailureEvent
            assert "not a number" in event.exception_text
            theirs.handle_stimulus(event)
            assert theirs.state.tasks["bad"].state == "error"
            assert "not a number" in theirs.state.tasks["bad"].exception_text
