"""What to do next: which tasks to run, and which keys to fetch from which peer."""

import heapq
import logging

from fastworker.core.base cimport Base, expect
from fastworker.core.log cimport GATHER_DEPENDENCIES
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.states cimport CONSTRAINED, EXECUTING, FETCH, FLIGHT, READY
from fastworker.core.task cimport TaskState, get_priority, nbytes_or_default

from distributed.comm import get_address_host
from distributed.worker_state_machine import GatherDep

logger = logging.getLogger("distributed.worker.state_machine")


cdef class Planner(Base):
    """Adds the two planners. They only recommend; transitions change the state."""

    # --------------------------------------------------------------------------------- running

    cdef int ensure_computing(self, Recs recs) except -1:
        """Recommend ready tasks for execution, best first, while there are threads."""
        cdef TaskState ts
        if not self.running:
            return 0
        while len(self.executing) < self.nthreads:
            ts = self.next_ready_task()
            if ts is None:
                break
            if self.validate:
                expect(ts.state_ == READY or ts.state_ == CONSTRAINED, ts)
                expect(not recs.has(ts), ts)
            recs.put(ts, EXECUTING)
            self.take_resources(ts, 1)
            self.executing.add(ts)
        return 0

    cdef TaskState next_ready_task(self):
        """Take the best task that could run now, or None.

        A constrained one goes first only where its priority is better and its resources are free;
        while nothing else is ready, the first constrained one blocks those behind it.
        """
        if self.constrained.size():
            if self.ready.size() and not (
                get_priority(self.constrained.first()) < get_priority(self.ready.first())
            ):
                return self.ready.take()
            if self.resources_suffice(self.constrained.first()):
                return self.constrained.take()
        return self.ready.take() if self.ready.size() else None

    # -------------------------------------------------------------------------------- fetching

    cdef int ensure_communicating(self, object stimulus_id, Recs recs, list records) except -1:
        """Recommend flight for what may be fetched now, with one GatherDep for each peer."""
        cdef TaskState ts
        cdef ReadyQueue available
        cdef list heap, to_gather
        if not self.running or not self.data_needed or self.throttled():
            return 0
        heap = self.peers_to_ask()
        while heap:
            _, is_remote, negative_count, tie, worker, available = heapq.heappop(heap)
            # What is held by several peers may just have been taken off this one's queue too
            if not available.size():
                del self.data_needed[worker]
                continue
            if available.size() != -negative_count:
                heapq.heappush(heap, (
                    get_priority(available.first()), is_remote, -available.size(), tie, worker,
                    available,
                ))
                continue

            expect(worker != self.address_, worker)
            to_gather = []
            message_nbytes = self.select_keys(available, to_gather)
            expect(bool(to_gather) or self.transfer_incoming_bytes != 0, worker)
            if not to_gather:
                return 0
            keys = {(<TaskState>ts).key for ts in to_gather}
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug(
                    "Gathering %d tasks from %s; %d more remain. "
                    "Pending workers: %d; connections: %d/%s; busy: %d",
                    len(to_gather), worker, available.size(), len(self.data_needed),
                    len(self.in_flight_workers), self.transfer_incoming_count_limit,
                    len(self.busy_workers),
                )
            self.log.write(GATHER_DEPENDENCIES, worker, keys, stimulus_id, self.now)
            for ts in to_gather:
                if self.validate:
                    expect(ts.state_ == FETCH and worker in ts.who_has_ and not recs.has(ts), ts)
                recs.put_args(ts, FLIGHT, (worker,))
            records.append(GatherDep(
                worker=worker, to_gather=keys, total_nbytes=message_nbytes, stimulus_id=stimulus_id,
            ))
            # A peer is asked again only after it has answered
            self.in_flight_workers[worker] = keys
            self.transfer_incoming_count_total += 1
            self.transfer_incoming_bytes += message_nbytes
            if self.throttled():
                return 0
            if not available.size():
                del self.data_needed[worker]
        return 0

    cdef bint throttled(self) except -1:
        """Too many transfers while they are not tiny, or too many bytes on their way."""
        return (
            len(self.in_flight_workers) >= self.transfer_incoming_count_limit
            and self.transfer_incoming_bytes >= self.transfer_incoming_bytes_throttle_threshold
        ) or self.transfer_incoming_bytes >= self.transfer_incoming_bytes_limit

    cdef list peers_to_ask(self):
        """A heap of the peers that can be asked: best task first, then those on our host, then
        those that hold most of what is needed, then at random (the same in every run).

        Queues that have run empty are dropped.
        """
        cdef ReadyQueue queue
        cdef list heap = []
        for worker, queue in list(self.data_needed.items()):
            if not queue.size():
                del self.data_needed[worker]
            elif worker not in self.in_flight_workers and worker not in self.busy_workers:
                heap.append((
                    get_priority(queue.first()),
                    self.is_remote(worker),
                    -queue.size(),
                    self.rng.random(),
                    worker,
                    queue,
                ))
        heapq.heapify(heap)
        return heap

    cdef bint is_remote(self, object worker) except -1:
        """Whether a peer is on another host; addresses are taken apart once, which is slow."""
        known = self.remote.get(worker)
        if known is None:
            if len(self.remote) > 10_000:
                self.remote.clear()
            known = get_address_host(worker) != get_address_host(self.address)
            self.remote[worker] = known
        return known

    cdef object select_keys(self, ReadyQueue available, list to_gather):
        """Move from `available`, and from all other queues, to `to_gather` what fits into one
        message. Returns its size in bytes.
        """
        cdef TaskState ts
        cdef long long message_nbytes = 0
        while available.size():
            ts = available.first()
            if self.exceeds_limits(ts, message_nbytes):
                break
            for worker in ts.who_has_:
                queue = self.data_needed[worker]
                if not (<ReadyQueue?>queue).drop(ts):
                    raise KeyError(ts)
            to_gather.append(ts)
            message_nbytes += nbytes_or_default(ts)
        return message_nbytes

    cdef bint exceeds_limits(self, TaskState ts, long long message_nbytes) except -1:
        """Whether this task must wait; the first one never does when nothing else is on its way."""
        if self.transfer_incoming_bytes == 0 and message_nbytes == 0:
            return False
        allowance = self.transfer_incoming_bytes_limit - self.transfer_incoming_bytes
        if message_nbytes != 0:
            # The limit of one message does not hold for its first task, so that it gets through
            allowance = min(allowance, self.transfer_message_bytes_limit) - message_nbytes
        return nbytes_or_default(ts) > allowance

    # ------------------------------------------------------------------------------ for Python

    def _select_keys_for_gather(self, ReadyQueue available not None):
        """Take from a peer's queue what fits into one message.

        Returns
        -------
        (list of TaskState, int)
            The tasks, gone from all queues of ``data_needed``, and their size in bytes.
        """
        to_gather = []
        nbytes = self.select_keys(available, to_gather)
        return to_gather, nbytes

    def _should_throttle_incoming_transfers(self):
        return self.throttled()
