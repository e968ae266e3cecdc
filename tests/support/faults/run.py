"""Break clusters in every way, until so many faults have happened.

    sh ci/faults [FAULTS] [--seed SEED] [--worker KIND] ...

Prints a line for each episode. Exits with 1 if one failed: that one's seed and the command that
runs it again are printed, and its logs are kept.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from support.faults.endings import ENDINGS
from support.faults.episode import PATIENCE, Episode
from support.faults.kinds import FAULTS, WEIGHTS
from support.faults.plan import Plan, can_mount, draw_plan, with_faults

MOST_TOLD = 6000  # characters of a failure

KINDS = {"ours": "fastworker", "worker-class": "worker-class", "stock": "stock"}


def play(plan: Plan, options: argparse.Namespace) -> bool:
    """Run one episode; whether all was well."""
    directory = Path(tempfile.mkdtemp(prefix="faults-", dir=options.directory)).resolve()
    episode = Episode(
        plan, directory, KINDS[options.worker], options.worker_option, options.patience
    )
    start = time.monotonic()
    print(f"seed {plan.seed}: {plan.describe()}", flush=True)
    try:
        episode.run()
    except Exception as error:
        print("".join(traceback.format_exception(error))[-MOST_TOLD:])
        print(f"FAILED after {time.monotonic() - start:.0f} s: {type(error).__name__}")
        print(f"  logs: {directory}\n  again: {again(plan.seed, options)}", flush=True)
        return False
    shutil.rmtree(directory)
    print(f"  ok, {time.monotonic() - start:.0f} s", flush=True)
    return True


def again(seed: int, options: argparse.Namespace) -> str:
    """The command that replays one episode."""
    words = [f"sh ci/faults --seed {seed} --episodes 1"]
    if options.worker != "ours":
        words.append(f"--worker {options.worker}")
    if options.only:
        words.append(f"--only {options.only}")
    words += [f"--worker-option={option}" for option in options.worker_option]
    return " ".join(words)


def plans(options: argparse.Namespace):
    for seed in range(options.seed, sys.maxsize):
        endings = dict.fromkeys(ENDINGS, 1)
        plan = draw_plan(seed, WEIGHTS, endings)
        if options.only:
            names = [name for name in options.only.split(",") if name in FAULTS]
            ends = [name for name in options.only.split(",") if name in ENDINGS]
            plan = with_faults(plan, names, ends[0] if ends else "")
        if plan.small_disk and not can_mount():
            print(f"seed {seed}: without its small disk, as mounting one takes root")
            plan.small_disk = False
        yield plan


def parse(args: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("faults", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--episodes", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--worker", choices=KINDS, default="ours")
    parser.add_argument("--worker-option", action="append", default=[], help="for its command")
    parser.add_argument("--only", default="", help="each round is one of these, comma between")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds until a hang")
    parser.add_argument("--directory", help="where episodes have their files; a temporary one")
    parser.add_argument("--keep-going", action="store_true", help="after a failure")
    parser.add_argument("--list", action="store_true", help="print the faults and the endings")
    options = parser.parse_args(args)
    if unknown := set(filter(None, options.only.split(","))) - {*FAULTS, *ENDINGS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    options = parse()
    if options.list:
        print("\n".join([*FAULTS, "", *ENDINGS]))
        return 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some are to crash
    happened: Counter[str] = Counter()
    failed: list[int] = []
    for n_episodes, plan in enumerate(plans(options)):
        if happened.total() >= options.faults or n_episodes >= options.episodes:
            break
        if not play(plan, options):
            failed.append(plan.seed)
            if not options.keep_going:
                break
        happened.update(name for each in plan.rounds for _, name in each)
        happened[plan.ending] += 1
    print(f"{happened.total()} faults: {dict(sorted(happened.items()))}")
    if failed:
        print(f"failed seeds: {failed}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
