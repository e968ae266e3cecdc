"""Fetching results from peers.

With distributed, a result that cannot be unpickled here fails the whole transfer, and the tasks
that need any result of it wait forever. Here the worker keeps the other results, and the tasks that
need the one fail with the error of unpickling it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Hashable
from time import time
from typing import Any, Protocol

from dask.typing import Key
from distributed.comm import Comm, CommClosedError
from distributed.core import (
    ConnectionPool,
    ErrorMessage,
    Status,
    clean_exception,
    error_message,
)
from distributed.metrics import DelayedMetricsLedger, context_meter
from distributed.worker import LOG_PDB, WORKER_ANY_RUNNING
from distributed.worker_state_machine import (
    GatherDepBusyEvent,
    GatherDepFailureEvent,
    GatherDepNetworkFailureEvent,
    GatherDepSuccessEvent,
    StateMachineEvent,
)

from fastworker.comm.parser import MessageTooLarge
from fastworker.config.logs import get_logger
from fastworker.core.partial import GatherDepPartialEvent
from fastworker.core.state import State

logger = logging.getLogger("distributed.worker")
own_logger = get_logger("data")  # for what distributed has no line for

#: Seconds until the worker asks a busy peer again while it fetches results one by one. As
#: distributed.
ASK_AGAIN_AFTER = 0.15

#: What ends the asyncio task or the process, and not just the transfer.
ENDINGS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class UnreadableResult(Exception):
    """A result arrived and cannot be read, with an error that is not taken for one of a result.

    Unpickling raised OSError, CommClosedError or EOFError, which look like a broken connection, or
    a BaseException that is no Exception, which no caller expects; or the result is larger than a
    message may be.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class Receiver(Protocol):
    """What a `Fetcher` needs of its worker."""

    address: str
    batched_stream: Any
    rpc: ConnectionPool
    state: Any  # WorkerState, or distributed's
    status: Status

    def batched_send(self, msg: dict[str, Any]) -> None: ...
    def digest_metric(self, name: Hashable, value: float) -> None: ...
    def _get_cause(self, keys: Collection[Key]) -> Any: ...
    def _update_metrics_received_data(
        self, start: float, stop: float, data: dict[Key, object], cause: Any, worker: str
    ) -> None: ...


class Fetcher:
    """Fetches results from peers for one worker.

    Only the thread of the event loop uses it.
    """

    def __init__(self, worker: Receiver) -> None:
        self._worker = worker

    async def fetch(
        self, peer: str, keys: Collection[Key], total_nbytes: int, stimulus_id: str
    ) -> StateMachineEvent:
        """Fetch results from a peer and return the event that ends the transfer.

        As ``distributed.Worker.gather_dep``, but for results that cannot be unpickled.

        Parameters
        ----------
        peer
            Its address.
        keys
            Keys of tasks that the state machine has in flight from there.
        total_nbytes
            The expected size of the results in bytes.
        stimulus_id
            For the log.
        """
        worker = self._worker
        if worker.status not in WORKER_ANY_RUNNING:
            # Only the state machine of this worker gets this event
            return GatherDepFailureEvent.from_exception(
                RuntimeError("Worker is shutting down"),
                worker=peer,
                total_nbytes=total_nbytes,
                stimulus_id=f"worker-closing-{time()}",
            )
        self._log("request-dep", peer, keys, stimulus_id)
        logger.debug("Request %d keys from %s", len(keys), peer)
        try:
            with context_meter.meter("network", func=time) as meter:
                data, bad = await self._fetch_the_good(peer, keys)
            if data is None:
                self._log("gather-dep-busy", peer, keys, stimulus_id)
                return GatherDepBusyEvent(
                    worker=peer,
                    total_nbytes=total_nbytes,
                    stimulus_id=f"gather-dep-busy-{time()}",
                )
            worker._update_metrics_received_data(
                start=meter.start,
                stop=meter.stop,
                data=data,
                cause=worker._get_cause(keys),
                worker=peer,
            )
        except OSError:
            logger.exception("Worker stream died during communication: %s", peer)
            self._log("gather-dep-failed", peer, keys, stimulus_id)
            return GatherDepNetworkFailureEvent(
                worker=peer,
                total_nbytes=total_nbytes,
                stimulus_id=f"gather-dep-network-failure-{time()}",
            )
        except Exception as error:
            logger.exception(error)
            self._log("gather-dep-failed", peer, keys, stimulus_id)
            if worker.batched_stream and LOG_PDB:
                import pdb

                pdb.set_trace()
            return GatherDepFailureEvent.from_exception(
                error,
                worker=peer,
                total_nbytes=total_nbytes,
                stimulus_id=f"gather-dep-failed-{time()}",
            )
        self._log("receive-dep", peer, set(data), stimulus_id)
        if not bad:
            return GatherDepSuccessEvent(
                worker=peer,
                total_nbytes=total_nbytes,
                data=data,
                stimulus_id=f"gather-dep-success-{time()}",
            )
        self._log("gather-dep-failed", peer, set(bad), stimulus_id)
        if not isinstance(worker.state, State):
            # distributed's state machine knows no such event: the whole transfer fails, as there
            return GatherDepFailureEvent(
                worker=peer,
                total_nbytes=total_nbytes,
                stimulus_id=f"gather-dep-failed-{time()}",
                **_for_event(next(iter(bad.values()))),
            )
        for key in bad:
            own_logger.error("%r cannot be read: the tasks here that wait for it fail", key)
        return GatherDepPartialEvent(
            worker=peer,
            total_nbytes=total_nbytes,
            data=data,
            unreadable=bad,
            stimulus_id=f"gather-dep-failed-{time()}",
        )

    def meter_if_nothing_made(self, event: StateMachineEvent, ledger: DelayedMetricsLedger) -> bool:
        """Meter the transfer that this event has ended as failed, if no result could be read.

        False for any other event, which is metered as distributed does.
        """
        if not isinstance(event, GatherDepPartialEvent) or event.data:
            return False
        for label, value, unit in ledger.finalize(coarse_time="failed"):
            self._worker.digest_metric(("gather-dep", label, unit), value)
        return True

    def _log(self, what: str, peer: str, keys: Collection[Key], stimulus_id: str) -> None:
        self._worker.state.log.append((what, peer, keys, stimulus_id, time()))

    async def _fetch_the_good(
        self, peer: str, keys: Collection[Key]
    ) -> tuple[dict[Key, object] | None, dict[Key, ErrorMessage]]:
        """``{key: result}``, None if the peer is busy; and ``{key: error}`` of unreadable results.

        Errors are pickled at once: an error holds its frames and those of their callers, which hold
        the bytes that were received.
        """
        try:
            return await self._fetch(peer, keys), {}
        except OSError:
            raise
        except Exception as error:
            if len(keys) == 1:
                own_logger.exception("Cannot read a result from %s", peer)
                return {}, dict.fromkeys(keys, _described(error))
            own_logger.exception("Cannot read the results from %s; fetching one by one", peer)
        data: dict[Key, object] = {}
        bad: dict[Key, ErrorMessage] = {}
        for key in keys:
            good, found_bad = await self._fetch_the_good(peer, [key])
            while good is None:  # busy: wait here, to keep the results that have arrived
                await asyncio.sleep(ASK_AGAIN_AFTER)
                good, found_bad = await self._fetch_the_good(peer, [key])
            data.update(good)
            bad.update(found_bad)
        return data, bad

    async def _fetch(self, peer: str, keys: Collection[Key]) -> dict[Key, object] | None:
        """``{key: result}`` of the keys that the peer has; None if it is busy."""
        rpc = self._worker.rpc
        comm = await rpc.connect(peer)
        comm.name = "Ephemeral Worker->Worker for gather"
        try:
            response = await self._ask(comm, op="get_data", keys=keys, who=self._worker.address)
            status = response.get("status") if isinstance(response, dict) else None
            if status == "busy":
                return None
            if status != "OK":
                raise ValueError(f"unexpected answer from {peer}: {response!r:.200}")
            await comm.write("OK")  # the peer waits for it
            data: dict[Key, object] = response["data"]
            return data
        except BaseException:
            # The peer may be sending its answer, or waiting for ours: do not use the comm again
            comm.abort()
            raise
        finally:
            rpc.reuse(peer, comm)

    async def _ask(self, comm: Comm, **message: Any) -> Any:
        """Send a message and return the answer.

        Raises OSError if the connection is broken, UnreadableResult, or the error of the peer.
        """
        rpc = self._worker.rpc
        serializers, deserializers = rpc.serializers, rpc.deserializers
        if deserializers is None:
            deserializers = serializers
        if deserializers is not None:
            message["serializers"] = deserializers
        await comm.write({**message, "reply": True}, serializers=serializers, on_error="raise")
        try:
            response = await comm.read(deserializers=deserializers)
        except CommClosedError as error:
            # Comms raise CommClosedError for an EOFError of a pickle
            if isinstance(error.__context__, EOFError):
                raise UnreadableResult(error.__context__) from error
            if isinstance(error.__cause__, MessageTooLarge):
                raise UnreadableResult(error.__cause__) from error
            if not comm.closed():
                raise UnreadableResult(error) from error
            raise
        except OSError as error:
            raise UnreadableResult(error) from error
        except (Exception, *ENDINGS):
            raise
        except BaseException as error:  # nothing but unpickling raises such
            raise UnreadableResult(error) from error
        if isinstance(response, dict) and response.get("status") == "uncaught-error":
            _, failure, traceback = clean_exception(**response)
            assert failure is not None
            raise failure.with_traceback(traceback)
        return response


def _described(error: Exception) -> ErrorMessage:
    """``distributed.core.error_message`` of an unreadable result, even if the error has no text."""
    try:
        return error_message(error.cause if isinstance(error, UnreadableResult) else error)
    except Exception:  # of the user's __str__ or __repr__
        name = type(error).__name__
        return error_message(RuntimeError(f"unpickling raised {name}, which cannot be described"))


def _for_event(error: ErrorMessage) -> dict[str, Any]:
    """The fields of an event that ends with this error."""
    names = ("exception", "traceback", "exception_text", "traceback_text")
    return {name: error[name] for name in names}
