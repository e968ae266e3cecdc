"""Runs pytest in a child process and survives what a compiled module can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: Seconds past a test's timeout before the whole child counts as stuck in native code.
GRACE = 60

#: pytest's exit status when every test is deselected.
NOTHING_LEFT = 5


class Broken(Exception):
    """pytest could not run the tests at all; the message says where to look."""


class Result(NamedTuple):
    """What became of one test.

    ``outcome`` is one of pytest's (passed, failed, error, skipped, xfailed, xpassed), or
    ``crashed`` if the interpreter died in it, or ``hung`` if it outlived its timeout.
    ``attempts`` says how often it was run.
    """

    outcome: str
    seconds: float
    text: str
    attempts: int = 1

    @property
    def bad(self) -> bool:
        return self.outcome in ("failed", "error", "crashed", "hung")


class Session:
    """Runs tests of one checkout, in order and one at a time."""

    def __init__(
        self, checkout: Path, out: Path, path: list[str], timeout: int, pytest_args: list[str]
    ) -> None:
        self.checkout = checkout
        self.out = out
        self.timeout = timeout
        self.pytest_args = pytest_args
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            # Plugins that happen to be installed must not change what upstream's tests see.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    def run_and_retry(
        self,
        title: str,
        classes: str,
        tests: list[str],
        retries: int,
        expected: Callable[[str], object] = lambda id: False,
    ) -> dict[str, Result]:
        """Run ``tests``, then each failing one up to ``retries`` times in a process of its own.

        Tests that are ``expected`` to fail are not run again.
        """
        results = self.run(title, classes, tests)
        bad = [id for id, result in results.items() if result.bad and not expected(id)]
        for id in bad:
            again = self.run_alone(title, classes, id, retries)
            if again is not None:
                results[id] = again._replace(attempts=again.attempts + 1)
                if not again.bad:
                    print(f"{title}: {id} passed at attempt {again.attempts + 1}", flush=True)
        counts = Counter(result.outcome for result in results.values())
        summary = ", ".join(f"{number} {outcome}" for outcome, number in counts.most_common())
        print(f"{title}: {summary}", flush=True)
        return results

    def run_alone(self, title: str, classes: str, id: str, times: int) -> Result | None:
        """Run one test in a process of its own, up to ``times`` times or until it does not fail.

        None if pytest does not find it by its id, which may have a random number in it.
        """
        result = None
        for attempt in range(1, times + 1):
            try:
                results = self.run(f"{title}-retry", classes, [id])
            except Broken as broken:
                print(f"{title}: {id} cannot be run on its own: {broken!s:.200}", flush=True)
                break
            if id in results:
                result = results[id]._replace(attempts=attempt)
                if not result.bad:
                    break
        return result

    def run(self, title: str, classes: str, tests: list[str]) -> dict[str, Result]:
        """Run ``tests`` (files or ids) with ``classes`` in place.

        A test that kills the interpreter is recorded, and the rest is run in a new process.
        Raises ``Broken`` if pytest does not get as far as running a test.
        """
        results: dict[str, Result] = {}
        while True:
            started, ended, uncollected = self._run_once(title, classes, tests, results)
            log = self.out / f"{title}.log"
            if uncollected:
                raise Broken(f"cannot collect {', '.join(uncollected)}, see {log}")
            if ended in (0, 1) or (ended == NOTHING_LEFT and results):
                return results
            if ended is not None or started is None:
                raise Broken(f"pytest stopped (exit status {ended}), see {log}\n{_tail(log)}")
            if started not in results:
                results[started] = Result("crashed", 0.0, _tail(log))

    def _run_once(
        self, title: str, classes: str, tests: list[str], results: dict[str, Result]
    ) -> tuple[str | None, int | None, list[str]]:
        """One process. Adds to ``results``; returns the last test started, pytest's exit status
        (``None`` if it died before the end), and what it could not collect."""
        record = self.out / f"{title}.jsonl"
        record.write_text("")
        skip = self.out / f"{title}.skip"
        skip.write_text("".join(f"{id}\n" for id in results))
        command = [
            *(sys.executable, "-m", "pytest"),
            *("-c", str(self.checkout / "pyproject.toml"), "--rootdir", str(self.checkout)),
            *("-p", "pytest_timeout", "-p", "upstream_plugin", "-p", "no:cacheprovider"),
            # Upstream's own options ask for plugins (coverage, say) that have no part in this.
            *("-o", "addopts=--verbose --strict-markers -p no:legacypath", "--durations=20"),
            *("--runslow", "--timeout", str(self.timeout), "--timeout-method", "signal"),
            *("-o", f"faulthandler_timeout={self.timeout + GRACE // 2}", "--color=no"),
            # Python 3.11 may refuse to parse a source for a traceback when the stack is deep.
            "--tb=native",
            *("--fastworker", classes),
            *("--fastworker-record", str(record), "--fastworker-skip", str(skip)),
            *self.pytest_args,
            *(str(self.checkout / test) for test in tests),
        ]
        with open(self.out / f"{title}.log", "a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.out,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                hung = self._watch(process, record)
            finally:
                _kill_group(process)

        started: str | None = None
        ended: int | None = None
        uncollected: list[str] = []
        for line in record.read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if "start" in entry:
                started = entry["start"]
            elif "id" in entry:
                results[entry["id"]] = Result(entry["outcome"], entry["seconds"], entry["text"])
            elif "uncollected" in entry:
                uncollected.append(entry["uncollected"])
            elif "end" in entry:
                ended = entry["end"]
        if hung and started is not None and started not in results:
            results[started] = Result("hung", float(self.timeout + GRACE), _tail(Path(log.name)))
        return started, ended, uncollected

    def _watch(self, process: subprocess.Popen[bytes], record: Path) -> bool:
        """Wait for the process; whether it had to be given up because no test ended."""
        size, since = -1, time.monotonic()
        while True:
            try:
                process.wait(timeout=1)
                return False
            except subprocess.TimeoutExpired:
                pass
            if record.stat().st_size != size:
                size, since = record.stat().st_size, time.monotonic()
            elif time.monotonic() - since > self.timeout + GRACE:
                return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(path: Path, size: int = 4000) -> str:
    return path.read_text(errors="replace")[-size:]
