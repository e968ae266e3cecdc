"""Tests of distributed that fail with fastworker's classes, each with the reason why that is right.

A key is a test's file and name, with its parameters if it is about these alone. A reason says
which detail of stock's classes the test looks at that no user can rely on, or what fastworker does
instead and why it is better.
"""

from __future__ import annotations

from collections.abc import Iterable

REASONS: dict[str, str] = {
    "test_scheduler.py::test_transition_waiting_memory": (
        "wants to catch a task of a microsecond while it runs, and its input's arrival before that "
        "is reported; a pull thread may be done with it by then. The same story is told, with a "
        "task that waits, in tests/worker/test_work.py."
    ),
    "test_worker.py::test_close_while_executing[True]": (
        "looks for the asyncio task that executes a synchronous function; plain tasks have none. "
        "What closing does to the task is tested in tests/execution/test_pull_order.py."
    ),
    "test_worker_state_machine.py::test_deprecated_worker_attributes": (
        "wants a warning that Worker.data_needed has been removed (distributed 2025 only); "
        "fastworker.Worker documents that attribute and keeps it, with the value it always had."
    ),
    "test_shuffle.py::test_restarting_during_transfer_raises_killed_worker": (
        "fails half of the time: closes a worker when the first shards have arrived, and wants the "
        "scheduler to believe that it still sends some. Stock reports that it is done milliseconds "
        "later; here the worker may have gone on to a task that is not the shuffle's, and that is "
        "the one that is said to have killed it."
    ),
    "test_worker_metrics.py::test_gather_dep_failed": (
        "waits for an input that cannot be unpickled to be in the state error, where stock leaves "
        "it, and the tasks that need it waiting for ever. Here those tasks fail, and the input is "
        "forgotten; see tests/transfer/test_serving.py."
    ),
    "test_core.py::test_prometheus_api_doc": (
        "wants each metric whose name begins with dask_ to be in the documentation of distributed. "
        "dask_fastworker_* are on the same page, as that is what Prometheus is told to read, and "
        "are documented in fastworker/monitoring/prometheus.py; every metric of stock's is there."
    ),
    "test_worker.py::test_Worker__to_dict": (
        "wants a worker's dump to have just the keys that stock's has; here one more, fastworker, "
        "has the version, so that a dump says what made it."
    ),
    "test_utils_test.py::test_invalid_transitions": (
        "makes a private method of WorkerState answer nonsense, which a compiled class does not "
        "allow; that an invalid transition is reported and closes the worker is in "
        "tests/worker/test_life.py."
    ),
    # With the comm in place
    "test_worker.py::test_upload_file": (
        "fails sometimes: wants a worker to have cleaned up when Client.close() returns, right "
        "after Scheduler.close(). With stock's comm the client has noticed by then that the "
        "scheduler has gone, and takes two seconds over it; here it may close at once."
    ),
    "test_comms.py::test_comm_closed_on_write_error": (
        "makes the write method of Tornado's stream fail, which the native comm has not; that "
        "errors while sending end the connection is in tests/comm/test_lifecycle.py."
    ),
    "test_comms.py::test_stop_listener_during_handle_stream": (
        "replaces a private method of stock's listener; the same situation is in "
        "tests/comm/test_lifecycle.py."
    ),
    "test_comms.py::test_share_buffer_with_header": (
        "knows of no other memory than numpy's and bytearrays, which large arrays do not come in "
        "here. From 32 KiB on they never share their memory with the header, so they are aligned."
    ),
    "test_rechunk.py::test_rechunk_in_memory_shards_dont_share_buffer": (
        "knows of no other memory than numpy's and bytearrays; that arrays of one message do not "
        "share their memory is in tests/comm/test_parser.py."
    ),
    "test_tcp.py::test_getaddrinfo_invalid_af": (
        "asks the connector for its Tornado client; host names are resolved without one."
    ),
}


def find(test_id: str) -> str | None:
    """The reason for a test's failure, by its pytest id, or ``None``."""
    return next((REASONS[key] for key in _keys(test_id) if key in REASONS), None)


def unused(run: Iterable[str], failed: Iterable[str]) -> list[str]:
    """Entries whose test was among those ``run`` and did not fail: they can be deleted."""
    good = {key for test_id in run for key in _keys(test_id)}
    bad = {key for test_id in failed for key in _keys(test_id)}
    return sorted((good - bad) & REASONS.keys())


def _keys(test_id: str) -> tuple[str, str]:
    """What a test may be listed as: with its parameters, and without."""
    path, _, name = test_id.partition("::")
    file = path.rpartition("/")[2]
    return f"{file}::{name}", f"{file}::{name.partition('[')[0]}"
