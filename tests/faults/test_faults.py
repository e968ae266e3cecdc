"""Some minutes' worth of faults with fixed seeds, and that the harness can fail.

``sh ci/faults`` plays any number of them, and one of them again.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.faults.endings import ENDINGS
from support.faults.episode import Episode, HangError, WrongError
from support.faults.kinds import WEIGHTS
from support.faults.plan import Plan, can_mount, draw_plan, with_faults
from support.faults.preload import semaphore_prefix
from support.faults.run import again, parse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Between them, all faults and endings, and clusters with and without nannies, lane and small disks
SEEDS = [1404, 2576, 7747, 8571, 10132]


@pytest.fixture(autouse=True)
def no_core_dumps() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def drawn(seed: int) -> Plan:
    return draw_plan(seed, WEIGHTS, dict.fromkeys(ENDINGS, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults(seed: int, tmp_path: Path) -> None:
    plan = drawn(seed)
    print(f"sh ci/faults --seed {seed} --episodes 1: {plan.describe()}")
    if plan.small_disk and not can_mount():
        pytest.skip("mounting a small disk takes root")
    Episode(plan, tmp_path).run()


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        ("Wrong", WrongError, "instead of the value"),
        ("Losing", HangError, "not done"),
        ("Hoarding", WrongError, "left on workers: .*tasks"),
        ("Littering", WrongError, "left behind: .*sleep 300.*TMPDIR: litter.*/dev/shm/sem.*litter"),
        ("Staying", HangError, "still there: worker"),
    ],
)
def test_that_a_broken_worker_is_found(
    broken: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    plan = with_faults(drawn(0), ["calm"], "scheduler-terminated")
    plan.nannied = [False, False]
    options = ["--worker-class", f"support.faults.broken_workers.{broken}"]
    episode = Episode(plan, tmp_path, options=options, patience=8)
    try:
        with pytest.raises(error, match=f"(?s){says}"):
            episode.run()
    finally:
        for path in Path("/dev/shm").glob(f"sem.{semaphore_prefix(episode.cluster.mark)}-*"):
            path.unlink()


def test_a_failure_says_how_it_is_played_again() -> None:
    options = parse(["1000", "--worker", "stock", "--only", "kill,reset", "--worker-option=--x"])
    command, script, *words = again(7, options).split()
    assert [command, script] == ["sh", "ci/faults"]
    replayed = parse(words)
    assert (replayed.seed, replayed.episodes) == (7, 1)
    for name in ("worker", "only", "worker_option"):
        assert getattr(replayed, name) == getattr(options, name)
    assert drawn(7) == drawn(7) != drawn(8)
