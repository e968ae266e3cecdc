"""What to do next: which tasks to run, and which keys to fetch from which peer.

The two planners recommend; transitions change the state.
"""

import heapq
import logging

from fastworker.core.log cimport GATHER_DEPENDENCIES
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State, expect
from fastworker.core.states cimport CONSTRAINED, EXECUTING, FETCH, FLIGHT, READY
from fastworker.core.task cimport TaskState, get_priority, nbytes_or_default

from distributed.comm import get_address_host
from distributed.worker_state_machine import GatherDep

logger = logging.getLogger("distributed.worker.state_machine")


# ------------------------------------------------------------------------------------------ running

cdef int ensure_computing(State state, Recs recs) except -1:
    """Recommend ready tasks for execution, best first, while there are threads."""
    cdef TaskState ts
    if not state.running:
        return 0
    while len(state.executing) < state.nthreads:
        ts = next_ready_task(state)
        if ts is None:
            break
        if state.validate:
            expect(ts.state_ == READY or ts.state_ == CONSTRAINED, ts)
            expect(not recs.has(ts), ts)
        recs.put(ts, EXECUTING)
        state.take_resources(ts, 1)
        state.executing.add(ts)
    return 0


cdef TaskState next_ready_task(State state):
    """Take the best task that could run now, or None.

    A constrained one goes first only where its priority is better and its resources are free;
    while nothing else is ready, the first constrained one blocks those behind it.
    """
    if state.constrained.size():
        if state.ready.size() and not (
            get_priority(state.constrained.first()) < get_priority(state.ready.first())
        ):
            return state.ready.take()
        if state.resources_suffice(state.constrained.first()):
            return state.constrained.take()
    return state.ready.take() if state.ready.size() else None


# ----------------------------------------------------------------------------------------- fetching

cdef int ensure_communicating(State state, object stimulus_id, Recs recs, list records) except -1:
    """Recommend flight for what may be fetched now, with one GatherDep for each peer."""
    cdef TaskState ts
    cdef ReadyQueue available
    cdef list heap, to_gather
    if not state.running or not state.data_needed or throttled(state):
        return 0
    heap = peers_to_ask(state)
    while heap:
        _, remote, negative_count, tie, worker, available = heapq.heappop(heap)
        # What is held by several peers may just have been taken off this one's queue too
        if not available.size():
            del state.data_needed[worker]
            continue
        if available.size() != -negative_count:
            heapq.heappush(heap, (
                get_priority(available.first()), remote, -available.size(), tie, worker,
                available,
            ))
            continue

        expect(worker != state.address_, worker)
        to_gather = []
        message_nbytes = select_keys(state, available, to_gather)
        expect(bool(to_gather) or state.transfer_incoming_bytes != 0, worker)
        if not to_gather:
            return 0
        keys = {(<TaskState>ts).key for ts in to_gather}
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "Gathering %d tasks from %s; %d more remain. "
                "Pending workers: %d; connections: %d/%s; busy: %d",
                len(to_gather), worker, available.size(), len(state.data_needed),
                len(state.in_flight_workers), state.transfer_incoming_count_limit,
                len(state.busy_workers),
            )
        state.log.write(GATHER_DEPENDENCIES, worker, keys, stimulus_id, state.now)
        for ts in to_gather:
            if state.validate:
                expect(ts.state_ == FETCH and worker in ts.who_has_ and not recs.has(ts), ts)
            recs.put_args(ts, FLIGHT, (worker,))
        records.append(GatherDep(
            worker=worker, to_gather=keys, total_nbytes=message_nbytes, stimulus_id=stimulus_id,
        ))
        # A peer is asked again only after it has answered
        state.in_flight_workers[worker] = keys
        state.transfer_incoming_count_total += 1
        state.transfer_incoming_bytes += message_nbytes
        if throttled(state):
            return 0
        if not available.size():
            del state.data_needed[worker]
    return 0


cdef bint throttled(State state) except -1:
    """Too many transfers while they are not tiny, or too many bytes on their way."""
    return (
        len(state.in_flight_workers) >= state.transfer_incoming_count_limit
        and state.transfer_incoming_bytes >= state.transfer_incoming_bytes_throttle_threshold
    ) or state.transfer_incoming_bytes >= state.transfer_incoming_bytes_limit


cdef list peers_to_ask(State state):
    """A heap of the peers that can be asked: best task first, then those on our host, then
    those that hold most of what is needed, then at random (the same in every run).

    Queues that have run empty are dropped.
    """
    cdef ReadyQueue queue
    cdef list heap = []
    for worker, queue in list(state.data_needed.items()):
        if not queue.size():
            del state.data_needed[worker]
        elif worker not in state.in_flight_workers and worker not in state.busy_workers:
            heap.append((
                get_priority(queue.first()),
                is_remote(state, worker),
                -queue.size(),
                state.rng.random(),
                worker,
                queue,
            ))
    heapq.heapify(heap)
    return heap


cdef bint is_remote(State state, object worker) except -1:
    """Whether a peer is on another host; addresses are taken apart once, which is slow."""
    known = state.remote.get(worker)
    if known is None:
        if len(state.remote) > 10_000:
            state.remote.clear()
        known = get_address_host(worker) != get_address_host(state.address)
        state.remote[worker] = known
    return known


cdef object select_keys(State state, ReadyQueue available, list to_gather):
    """Move from `available`, and from all other queues, to `to_gather` what fits into one
    message. Returns its size in bytes.
    """
    cdef TaskState ts
    cdef long long message_nbytes = 0
    while available.size():
        ts = available.first()
        if exceeds_limits(state, ts, message_nbytes):
            break
        for worker in ts.who_has_:
            queue = state.data_needed[worker]
            if not (<ReadyQueue?>queue).drop(ts):
                raise KeyError(ts)
        to_gather.append(ts)
        message_nbytes += nbytes_or_default(ts)
    return message_nbytes


cdef bint exceeds_limits(State state, TaskState ts, long long message_nbytes) except -1:
    """Whether this task must wait; the first one never does when nothing else is on its way."""
    if state.transfer_incoming_bytes == 0 and message_nbytes == 0:
        return False
    allowance = state.transfer_incoming_bytes_limit - state.transfer_incoming_bytes
    if message_nbytes != 0:
        # The limit of one message does not hold for its first task, so that it gets through
        allowance = min(allowance, state.transfer_message_bytes_limit) - message_nbytes
    return nbytes_or_default(ts) > allowance
