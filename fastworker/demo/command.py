"""The ``fastworker demo`` command: its options, and what it prints."""

from __future__ import annotations

import functools
import importlib.util
import platform
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click
import distributed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastworker import __version__
from fastworker.demo.cluster import Cluster, DemoError
from fastworker.demo.comparison import compare, comparison_table, watch
from fastworker.demo.launcher import Kind
from fastworker.demo.stages import STAGES, Stage

#: Below the table.
LEGEND = """wall: of the whole cluster; CPU: of the worker processes
the lane is in the scheduler and in the client, and this puts it there:
  scheduler  'fastworker scheduler', or dask scheduler --preload fastworker.scheduler
  client     fastworker.scheduler.low_latency_client(client)
  both       fastworker.LocalCluster() and its get_client()"""


class _Terminated(BaseException):
    """SIGTERM arrived."""


@click.command(name="fastworker demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Per worker process."
)
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How much work there is; 1 is a second or two for each kind of it on stock workers.",
)
@click.option(
    "--compare/--no-compare",
    "with_stock",
    default=True,
    show_default=True,
    help="Run the same work on stock workers, and without the lane, too.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="How often the work is measured: the better of two counts, the median of more.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Of the scheduler.  [default: a free one]",
)
@click.option(
    "--dashboard-port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="Of the dashboard; another one if it is taken.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds after which a kind of work counts as stuck.",
)
@click.option("--hold", is_flag=True, help="Keep the cluster up in the end, until Ctrl-C.")
def demo_command(
    workers: int,
    threads: int,
    scale: float,
    with_stock: bool,
    rounds: int,
    port: int,
    dashboard_port: int,
    timeout: float,
    hold: bool,
) -> None:
    """Start a Dask scheduler and fastworker processes on this machine and run real work on them.

    The scheduler and the client have the low-latency lane. The results are checked, and a wrong one
    is an error. Then the same work runs on fastworker without the lane and on stock workers, which
    are those of 'dask worker', and a table shows what it took.
    """
    console = Console(highlight=False)
    try:
        with _terminable(), ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(
                prefix="fastworker-demo-", ignore_cleanup_errors=True
            )
            directory = Path(stack.enter_context(temporary))
            _announce(console)
            stages = _stages(console, scale)
            has_bokeh = _has_bokeh(console)

            def start(kind: Kind, lane: bool, port: int, dashboard_port: int) -> Cluster:
                cluster = Cluster(kind, directory, lane)
                stack.callback(_stop, cluster)
                cluster.start(workers, threads, port, dashboard_port if has_bokeh else None)
                return cluster

            ours = start("fastworker", True, port, dashboard_port)
            console.print(f"scheduler  {ours.address} with the low-latency lane")
            if has_bokeh:
                console.print(f"dashboard  {ours.dashboard()}")
            console.print(f"workers    {workers} processes, --nthreads {threads} each")
            _show(console, stages, ours, timeout)

            if with_stock:
                without_lane = start("fastworker", False, 0, 0)
                _show(console, stages, without_lane, timeout)
                stock = start("stock", False, 0, 0)
                _show(console, stages, stock, timeout)
                _measure(console, stages, [stock, without_lane, ours], rounds, timeout)
            if hold:
                console.print("the cluster stays up until Ctrl-C")
                _hold(ours)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(128 + signal.SIGINT)
    except _Terminated:
        click.echo("terminated", err=True)
        sys.exit(128 + signal.SIGTERM)


def _announce(console: Console) -> None:
    console.print(
        f"[bold]fastworker {__version__}[/bold] with distributed {distributed.__version__} "
        f"on Python {platform.python_version()}"
    )


def _stages(console: Console, scale: float) -> list[Stage]:
    stages = []
    for cls in STAGES:
        stage = cls(scale)
        missing = stage.missing()
        if missing:
            console.print(
                f"without {stage.name}: it takes {', '.join(missing)} "
                "(pip install 'fastworker\\[demo]')"
            )
        else:
            stages.append(stage)
    return stages


def _has_bokeh(console: Console) -> bool:
    if importlib.util.find_spec("bokeh") is not None:
        return True
    console.print("without a dashboard: it takes bokeh (pip install 'fastworker\\[demo]')")
    return False


def _stop(cluster: Cluster) -> None:
    """Stop a cluster; another Ctrl-C does not leave processes behind."""
    if threading.current_thread() is not threading.main_thread():
        cluster.stop()
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        cluster.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(console: Console, counted: bool) -> Progress:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    return Progress(
        *columns,
        *([TimeElapsedColumn()] if counted else []),
        console=console,
        transient=True,
        # Without a terminal, only the lines that follow.
        disable=not console.is_terminal,
    )


def _show(console: Console, stages: list[Stage], cluster: Cluster, timeout: float) -> None:
    """Run every stage once, to be watched; that warms up the cluster too."""
    console.print(f"[bold]on {cluster.name}[/bold], to warm up")
    for stage in stages:
        with _progress(console, counted=True) as progress:
            bar = progress.add_task(stage.name, total=None)
            update = functools.partial(progress.update, bar)
            tasks, seconds = watch(stage, cluster, timeout, update)
        console.print(f"  {stage.name:<16} {tasks:>5} tasks  {seconds:6.2f} s  right")


def _measure(
    console: Console,
    stages: Sequence[Stage],
    clusters: Sequence[Cluster],
    rounds: int,
    timeout: float,
) -> None:
    with _progress(console, counted=False) as progress:
        bar = progress.add_task("in turns", total=len(clusters) * rounds * len(stages))
        costs = compare(
            stages,
            clusters,
            rounds,
            timeout,
            lambda number: console.print(f"[bold]round {number} of {rounds}[/bold], in turns"),
            lambda: progress.advance(bar),
        )
    console.print(comparison_table(costs))
    kind = (
        "one round"
        if rounds == 1
        else f"{'better' if rounds == 2 else 'median'} of {rounds} rounds"
    )
    console.print(f"all results right, {kind}\n{LEGEND}", soft_wrap=True)


def _hold(cluster: Cluster) -> None:
    while True:
        threading.Event().wait(1)
        cluster.check()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: with everything cleaned up."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
