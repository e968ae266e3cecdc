"""Answering peers and clients that ask for results."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from time import time
from typing import TYPE_CHECKING, Any, Literal
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
from fastworker.wire.result_messages import Shared

#: Says of transfers what stock says of them.
logger = logging.getLogger("distributed.worker")

#: What the log adds to a refusal of a paused worker
THROTTLED = " Throttling outgoing data transfers because worker is paused."

#: A transfer is taken to last this long at least, in seconds, when its bandwidth is computed.
SHORTEST = 0.001

#: Results smaller than this, in bytes, are serialized for each request: that takes less time than
#: to look for another request for the same.
SHARE_FROM = 16 << 10


class Serving:
    """The part of the worker that hands out results."""

    if TYPE_CHECKING:
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Results that are on their way into messages. By weak reference: the transfers hold them,
        # and nothing holds a result, nor what it was serialized to, when the last one has been
        # written. The event loop's thread looks here; any thread may let go of a result, which
        # WeakValueDictionary allows for.
        self._sharing: WeakValueDictionary[Key, Shared] = WeakValueDictionary()
        super().__init__(*args, **kwargs)

    @context_meter_to_server_digest("get-data")  # type: ignore[untyped-decorator]
    async def get_data(
        self,
        comm: Comm,
        keys: Collection[Key],
        who: str | None = None,
        serializers: list[str] | None = None,
    ) -> Any:
        """Send the results of these keys, and wait until they have arrived.

        Parameters
        ----------
        comm
            Where to.
        keys
            Those that are not here are left out.
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
        limit = self._limit_of_transfers(comm)
        if limit is not False and self.transfer_outgoing_count >= limit:
            logger.debug(
                "Worker %s has too many open connections to respond to data request "
                "from %s (%d/%d).%s",
                self.address,
                who,
                self.transfer_outgoing_count,
                limit,
                THROTTLED if self.status == Status.paused else "",
            )
            return {"status": "busy"}
        # Before the data is looked at: what has to be read from disk takes its time
        self.transfer_outgoing_count += 1
        self.transfer_outgoing_count_total += 1
        try:
            await self._transfer(comm, keys, who, serializers)
        finally:
            self.transfer_outgoing_count -= 1
        return Status.dont_reply

    async def _transfer(
        self, comm: Comm, keys: Collection[Key], who: str | None, serializers: list[str] | None
    ) -> None:
        data = self._results(keys)
        nbytes = {key: self.state.tasks[key].nbytes or 0 for key in data}
        total = sum(nbytes.values())
        if isinstance(comm, TCP):
            marked = self._mark(data, nbytes)
        else:  # "inproc" serializes nothing, and takes marks of one kind off
            marked = {key: Serialize(value) for key, value in data.items()}
        del data
        self.transfer_outgoing_bytes += total
        self.transfer_outgoing_bytes_total += total
        try:
            with context_meter.meter("network", func=time) as meter:
                message = {"status": "OK", "data": marked}
                sent = await comm.write(message, serializers=serializers)
                del message, marked  # hold nothing here while the peer is at it
                answer = await comm.read(deserializers=serializers)
            if answer != "OK":
                self._next_request(comm, answer)
                return
        except OSError:
            logger.exception("failed during get data with %s -> %s", self.address, who)
            comm.abort()
            raise
        finally:
            self.transfer_outgoing_bytes -= total
        duration = max(SHORTEST, meter.stop - meter.start)
        self.transfer_outgoing_log.append(
            {
                "start": meter.start + self.scheduler_delay,
                "stop": meter.stop + self.scheduler_delay,
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
    def _next_request(comm: Comm, message: Any) -> None:
        """What to do when a peer that was sent results does not say that it has them.

        A peer that cannot make something of them again, as a client cannot that lacks a module,
        says nothing, and uses the connection for its next request.

        Raises AssertionError if that is not what came, or cannot be read again.
        """
        assert isinstance(comm, NativeTCP) and isinstance(message, dict) and "op" in message, (
            message
        )
        comm.put_back(message)

    def _limit_of_transfers(self, comm: Comm) -> int | Literal[False]:
        """How many transfers may be under way when this one is added; False for no limit."""
        if self.status == Status.paused:
            return 1
        limit = self.transfer_outgoing_count_limit
        # There is more room on one host than between two
        if get_address_host(comm.peer_address) == get_address_host(self.address):
            limit = limit and 2 * limit
        return limit

    def _mark(
        self, results: Mapping[Key, object], nbytes: Mapping[Key, int]
    ) -> dict[Key, Serialize]:
        """The results as they go into a message.

        Large results queue for the thread that serializes them. All requests for a result that
        come before its turn share one serialization. A request that comes later does not, as the
        result may have been changed in place since.
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
        """The results of those keys that have one here; of an actor, what stands for it."""
        results: dict[Key, object]
        if type(self.data) is Store:
            results = self.data.get_many(keys)
        else:
            results = {key: self.data[key] for key in keys if key in self.data}
        if len(results) < len(keys):
            for key in keys:
                if key not in results and key in self.state.actors:
                    kind = type(self.state.actors[key])
                    results[key] = Actor(kind, self.address, key, worker=self)
        return results
