"""Sending results to peers and clients that ask for them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping
from time import time
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

from dask.typing import Key
from distributed.actor import Actor
from distributed.comm import Comm, get_address_host
from distributed.comm.tcp import TCP
from distributed.core import Status, context_meter_to_server_digest
from distributed.metrics import context_meter
from distributed.protocol import Serialize

from fastworker.comm.tcp import TCP as NativeTCP
from fastworker.data.store import Store
from fastworker.transfer.fetching import ENDINGS
from fastworker.wire.result_messages import Shared

#: Same logger and lines as distributed's.
logger = logging.getLogger("distributed.worker")

#: What the log adds to a refusal of a paused worker
THROTTLED = " Throttling outgoing data transfers because worker is paused."

#: The shortest duration of a transfer, in seconds, for computing its bandwidth.
SHORTEST = 0.001

#: Results smaller than this, in bytes, are serialized for each request: that takes less time than
#: looking for another request for the same result.
SHARE_FROM = 16 << 10


class Holder(Protocol):
    """What a `ResultServer` needs of its worker."""

    address: str
    data: Any  # Store, or a mapping of the user's
    scheduler_delay: float
    state: Any  # WorkerState, or distributed's
    status: Status
    transfer_outgoing_bytes: int
    transfer_outgoing_bytes_total: int
    transfer_outgoing_count: int
    transfer_outgoing_count_limit: int | Literal[False]
    transfer_outgoing_count_total: int
    transfer_outgoing_log: Any

    def digest_metric(self, name: Hashable, value: float) -> None: ...


class ResultServer:
    """Sends the results of one worker, which keeps the books on it: ``transfer_outgoing_...``.

    Only the thread of the event loop uses it.
    """

    def __init__(self, worker: Holder) -> None:
        self._worker = worker
        # Results that are being put into messages. By weak reference: only the transfers hold a
        # result and its serialized form, so both are freed when the last transfer has written it.
        # The event loop's thread reads and writes; any thread may free a result, which
        # WeakValueDictionary allows.
        self._sharing: WeakValueDictionary[Key, Shared] = WeakValueDictionary()

    def digest_metric(self, name: Hashable, value: float) -> None:
        """Called by distributed's decorator of `send`."""
        self._worker.digest_metric(name, value)

    @context_meter_to_server_digest("get-data")  # type: ignore[untyped-decorator]
    async def send(
        self,
        comm: Comm,
        keys: Collection[Key],
        who: str | None = None,
        serializers: list[str] | None = None,
    ) -> Any:
        """Send the results of these keys, and wait until they have arrived.

        As ``distributed.Worker.get_data``.

        Parameters
        ----------
        comm
            The connection to the peer or client.
        keys
            Keys without a result here are left out.
        who
            Address of a worker that asks; None for a client.
        serializers
            Names of serialization families; None for the usual ones.

        Returns
        -------
        ``{"status": "busy"}`` if too many transfers are under way, else ``Status.dont_reply``:
        the answer has been sent.

        Raises
        ------
        OSError
            The connection broke.
        """
        worker = self._worker
        limit = self._limit_of_transfers(comm)
        if limit is not False and worker.transfer_outgoing_count >= limit:
            logger.debug(
                "Worker %s has too many open connections to respond to data request "
                "from %s (%d/%d).%s",
                worker.address,
                who,
                worker.transfer_outgoing_count,
                limit,
                THROTTLED if worker.status == Status.paused else "",
            )
            return {"status": "busy"}
        # Before the data is read, which takes long if it is on disk
        worker.transfer_outgoing_count += 1
        worker.transfer_outgoing_count_total += 1
        try:
            await self._transfer(comm, keys, who, serializers)
        finally:
            worker.transfer_outgoing_count -= 1
        return Status.dont_reply

    async def _transfer(
        self, comm: Comm, keys: Collection[Key], who: str | None, serializers: list[str] | None
    ) -> None:
        worker = self._worker
        data = self._results(keys)
        nbytes = {key: worker.state.tasks[key].nbytes or 0 for key in data}
        total = sum(nbytes.values())
        if isinstance(comm, TCP):
            marked = self._mark(data, nbytes)
        else:  # "inproc" serializes nothing, and unwraps Serialize alone
            marked = {key: Serialize(value) for key, value in data.items()}
        del data
        worker.transfer_outgoing_bytes += total
        worker.transfer_outgoing_bytes_total += total
        try:
            with context_meter.meter("network", func=time) as meter:
                message = {"status": "OK", "data": marked}
                sent = await self._send(comm, message, serializers)
                del message, marked  # hold no result while the peer reads
                answer = await comm.read(deserializers=serializers)
            if answer != "OK":
                self._next_request(comm, answer)
                return
        except OSError:
            logger.exception("failed during get data with %s -> %s", worker.address, who)
            comm.abort()
            raise
        finally:
            worker.transfer_outgoing_bytes -= total
        duration = max(SHORTEST, meter.stop - meter.start)
        worker.transfer_outgoing_log.append(
            {
                "start": meter.start + worker.scheduler_delay,
                "stop": meter.stop + worker.scheduler_delay,
                "middle": (meter.start + meter.stop) / 2,
                "duration": duration,
                "who": who,
                "keys": nbytes,
                "total": total,
                "compressed": sent,
                "bandwidth": total / duration,
            }
        )

    @staticmethod
    async def _send(comm: Comm, message: Any, serializers: list[str] | None) -> Any:
        """Send results; returns what ``Comm.write`` does.

        In place of a result whose pickling raises an Exception, the peer gets that. Any other
        error of pickling comes before a byte has left, and would close the connection without an
        answer: the peer would take this worker for gone. As RuntimeError it is an answer, and the
        peer then asks for one result at a time.
        """
        try:
            return await comm.write(message, serializers=serializers)
        except (Exception, *ENDINGS):
            raise
        except BaseException as error:
            raise RuntimeError(f"pickling a result raised {error!r:.200}") from error

    @staticmethod
    def _next_request(comm: Comm, message: Any) -> None:
        """Put back a request that came in the place of "OK", the confirmation of results.

        A peer that cannot unpickle the results, such as a client that lacks a module, sends no
        confirmation, and uses the connection for its next request.

        Raises AssertionError if the message is no request, or the comm cannot take it back.
        """
        assert isinstance(comm, NativeTCP) and isinstance(message, dict) and "op" in message, (
            message
        )
        comm.put_back(message)

    def _limit_of_transfers(self, comm: Comm) -> int | Literal[False]:
        """How many transfers may be under way, this one included; False for no limit."""
        worker = self._worker
        if worker.status == Status.paused:
            return 1
        limit = worker.transfer_outgoing_count_limit
        # Twice as many within one host, as in distributed
        if get_address_host(comm.peer_address) == get_address_host(worker.address):
            limit = limit and 2 * limit
        return limit

    def _mark(
        self, results: Mapping[Key, object], nbytes: Mapping[Key, int]
    ) -> dict[Key, Serialize]:
        """Wrap the results for a message.

        Large results queue for the thread that serializes them. All requests for a result that
        come before its turn share one serialization. A later request does not: user code may have
        changed the result in place since.
        """
        marked: dict[Key, Serialize] = {}
        for key, value in results.items():
            if nbytes[key] < SHARE_FROM:
                marked[key] = Serialize(value)
                continue
            shared = self._sharing.get(key)
            if shared is None or shared.begun or shared.data is not value:
                shared = self._sharing[key] = Shared(value)
            marked[key] = shared
        return marked

    def _results(self, keys: Collection[Key]) -> dict[Key, object]:
        """``{key: result}`` of the keys that have one here; an ``Actor`` for an actor."""
        worker = self._worker
        results: dict[Key, object]
        if type(worker.data) is Store:
            results = worker.data.get_many(keys)
        else:
            results = {key: worker.data[key] for key in keys if key in worker.data}
        if len(results) < len(keys):
            for key in keys:
                if key not in results and key in worker.state.actors:
                    kind = type(worker.state.actors[key])
                    results[key] = Actor(kind, worker.address, key, worker=worker)
        return results
