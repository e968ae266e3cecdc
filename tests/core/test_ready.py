"""The ready queue against sortedcontainers as its oracle, and at its edges."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sortedcontainers import SortedKeyList

from fastworker.core import ReadyQueue, TaskState

packed = st.tuples(
    st.integers(-3, 3), st.integers(-2, 2), st.integers(-(2**39) + 1, 2**39 - 1), st.integers(-9, 9)
)
short = st.lists(st.integers(-2, 2), min_size=1, max_size=4).map(tuple)
unpacked = st.one_of(
    st.tuples(st.floats(-2, 2), st.integers(-2, 2)),
    st.tuples(st.integers(-(2**70), 2**70)),
    st.lists(st.integers(-1, 1), min_size=5, max_size=6).map(tuple),
)


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of calls, next to a list kept sorted by (priority, order of arrival)."""

    @initialize(mixed=st.booleans())
    def start(self, mixed: bool) -> None:
        self.queue = ReadyQueue()
        self.oracle: SortedKeyList = SortedKeyList(key=lambda item: item[:2])
        self.priorities = st.one_of(packed, short, unpacked) if mixed else st.one_of(packed, short)
        self.tasks: list[TaskState] = []
        self.count = 0

    def items(self) -> dict[TaskState, tuple]:
        return {item[2]: item for item in self.oracle}

    @rule(data=st.data())
    def add_new(self, data: st.DataObject) -> None:
        ts = TaskState(f"x-{self.count}", priority=data.draw(self.priorities))
        self.tasks.append(ts)
        self.add(ts)

    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        if self.tasks:
            ts = data.draw(st.sampled_from(self.tasks))
            ts.priority = data.draw(self.priorities)
            self.add(ts)

    def add(self, ts: TaskState) -> None:
        self.queue.add(ts)
        if ts not in self.items():
            self.oracle.add((ts.priority, self.count, ts))
        self.count += 1

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        if self.tasks:
            ts = data.draw(st.sampled_from(self.tasks))
            item = self.items().get(ts)
            if item is None:
                with pytest.raises(KeyError):
                    self.queue.remove(ts)
            else:
                self.queue.remove(ts)
                self.oracle.remove(item)
            self.queue.discard(ts)

    @rule()
    def pop(self) -> None:
        if self.oracle:
            assert self.queue.pop() is self.oracle.pop(0)[2]
        else:
            with pytest.raises(KeyError, match="empty queue"):
                self.queue.pop()

    @rule()
    def popright(self) -> None:
        if self.oracle:
            ts = self.queue.popright()
            assert not any(ts is item[2] for item in self.oracle[:1]) or len(self.oracle) == 1
            self.oracle.remove(self.items()[ts])

    @invariant()
    def agree(self) -> None:
        expected = [item[2] for item in self.oracle]
        assert len(self.queue) == len(expected)
        assert list(self.queue.sorted()) == expected
        assert set(self.queue) == set(expected)
        assert list(self.queue.peekn(2)) == expected[:2]
        if expected:
            assert self.queue.peek() is expected[0]
        for ts in self.tasks[-5:]:
            assert (ts in self.queue) == (ts in expected)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True
)


@given(st.lists(st.one_of(packed, short), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_comes_out_as_python_sorts(priorities: list[tuple]) -> None:
    tasks = [TaskState(i, priority=p) for i, p in enumerate(priorities)]
    queue = ReadyQueue(tasks)
    out = [queue.pop().key for _ in tasks]
    assert out == sorted(range(len(priorities)), key=lambda i: (priorities[i], i))


@given(st.one_of(packed, short, unpacked))
@settings(deadline=None, derandomize=True)
def test_priorities_read_back_as_they_were(priority: tuple) -> None:
    ts = TaskState("x", priority=priority)
    assert ts.priority == priority
    assert [type(p) for p in ts.priority] == [type(p) for p in priority]


@pytest.mark.parametrize("width, component", [(16, 0), (32, 1), (40, 2), (40, 3)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_priorities_at_the_edge_of_what_is_packed(width: int, component: int, sign: int) -> None:
    edge = sign * 2 ** (width - 1)
    values = [edge - 2, edge - 1, edge, edge + 1, edge + 2]
    tasks = [TaskState(v, priority=(0,) * component + (v,)) for v in values]
    assert [ts.priority[-1] for ts in tasks] == values
    queue = ReadyQueue(reversed(tasks))
    assert [queue.pop().key for _ in values] == values


def test_a_task_stands_in_many_queues() -> None:
    tasks = [TaskState(i, priority=(i,)) for i in range(50)]
    queues = [ReadyQueue(tasks[i:]) for i in range(20)]
    for i, queue in enumerate(queues):
        queue.discard(tasks[30])
        assert queue.peek() is tasks[i]
    del queues[5:15]
    for i, queue in zip([0, 1, 2, 3, 4, 15, 16, 17, 18, 19], queues, strict=True):
        assert [ts.key for ts in queue.sorted()] == [k for k in range(i, 50) if k != 30]


def test_leaving_one_queue_leaves_the_others_alone() -> None:
    ts = TaskState("x", priority=(0,))
    a, b, c = ReadyQueue([ts]), ReadyQueue([ts]), ReadyQueue([ts])
    b.remove(ts)
    assert ts in a and ts not in b and ts in c
    b.add(ts)
    a.clear()
    assert ts not in a and ts in b and ts in c


def test_keeps_its_place_when_the_priority_changes() -> None:
    x, y = TaskState("x", priority=(1,)), TaskState("y", priority=(2,))
    queue = ReadyQueue([x, y])
    x.priority = (3,)
    queue.add(x)
    assert queue.peek() is x
    queue.remove(x)
    queue.add(x)
    assert queue.peek() is y


@pytest.mark.parametrize("junk", [None, 1, "x", object()])
def test_only_tasks(junk: object) -> None:
    queue = ReadyQueue()
    with pytest.raises(TypeError):
        queue.add(junk)  # type: ignore[arg-type]
    assert junk not in queue
    queue.discard(junk)
    with pytest.raises(KeyError):
        queue.remove(junk)


def test_no_priority() -> None:
    with pytest.raises(TypeError, match=r"'x'.*no priority"):
        ReadyQueue().add(TaskState("x"))


def test_priorities_that_do_not_compare_leave_the_queue_as_it_was() -> None:
    tasks = [TaskState(i, priority=(0, i)) for i in range(30)]
    queue = ReadyQueue(tasks)
    odd = TaskState("odd", priority=(0, "a"))
    for _ in range(3):
        with pytest.raises(TypeError):
            queue.add(odd)
        assert odd not in queue
        assert list(queue.sorted()) == tasks
    # Compared with its ancestors in the heap only, one can get in that does not compare with others
    queue = ReadyQueue([TaskState("root", priority=(0,)), TaskState("one", priority=(0, 1))])
    queue.add(odd)
    with pytest.raises(TypeError):
        queue.pop()
    assert {ts.key for ts in queue} == {"root", "one", "odd"}
    queue.remove(odd)
    assert [queue.pop().key, queue.pop().key] == ["root", "one"]


def test_holds_its_tasks_and_lets_them_go() -> None:
    queue = ReadyQueue()
    for i in range(100):
        queue.add(TaskState(i, priority=(i % 7,)))
    refs = [weakref.ref(ts) for ts in queue]
    assert all(ref() is not None for ref in refs)
    for _ in range(50):
        queue.pop()
    assert sum(ref() is not None for ref in refs) == 50
    del queue
    assert not any(ref() is not None for ref in refs)


def test_garbage_collected_in_a_cycle_while_a_task_lives_on() -> None:
    class Holder:
        pass

    survivor = TaskState("x", priority=(0,))
    gc.collect()
    before = len(TaskState._instances)  # other tests' closed workers may still be held
    for _ in range(20):
        holder = Holder()
        holder.queue = ReadyQueue([survivor, TaskState("y", run_spec=holder, priority=(1,))])
        del holder
        gc.collect()
        queue = ReadyQueue()
        assert survivor not in queue
        queue.add(survivor)
        assert queue.pop() is survivor
    assert len(TaskState._instances) <= before


def test_pickle_keeps_the_order() -> None:
    queue = ReadyQueue([TaskState(i, priority=(i % 3,)) for i in range(20)])
    copy = pickle.loads(pickle.dumps(queue))
    assert [ts.key for ts in copy.sorted()] == [ts.key for ts in queue.sorted()]


def test_compares_as_a_set() -> None:
    x, y = TaskState("x", priority=(0,)), TaskState("y", priority=(1,))
    assert ReadyQueue([x, y]) == {y, x} == ReadyQueue([y, x])
    assert ReadyQueue([x]) != {x, y}
    assert ReadyQueue([x]) != [x]
    with pytest.raises(TypeError, match="unhashable"):
        hash(ReadyQueue())
