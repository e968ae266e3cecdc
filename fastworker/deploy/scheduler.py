"""``fastworker scheduler``: ``dask scheduler`` with the low-latency lane."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from fastworker._version import __version__
from fastworker.deploy.errors import naming_preloads, one_line_for_errors
from fastworker.deploy.lane import add_lane

EPILOG = """
The options are those of 'dask scheduler': https://docs.dask.org/en/stable/deploying-cli.html. The
lane's settings are under 'fastworker.low-latency' in Dask's configuration.
"""


def scheduler_command() -> click.Command:
    """The command that starts a scheduler, made from distributed's."""
    from distributed.cli.dask_scheduler import main as theirs

    assert theirs.callback is not None
    command = click.Command(
        name="fastworker scheduler",
        params=[naming_preloads(param) for param in theirs.params if param.name != "version"],
        callback=_start_scheduler(theirs.callback),
        help="Start a Dask scheduler with fastworker's low-latency lane.",
        epilog=EPILOG,
        context_settings={**theirs.context_settings, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__, prog_name="fastworker scheduler")(command)


def _start_scheduler(start: Callable[..., None]) -> Callable[..., None]:
    """distributed's callback that starts a scheduler, with one line for each error of a user."""

    @functools.wraps(start)
    def start_scheduler(**options: Any) -> None:
        _check_ports(options["port"])
        add_lane(options)
        with one_line_for_errors({"--host": options["host"], "--port": options["port"] or 8786}):
            start(**options)

    return start_scheduler


def _check_ports(ports: str | None) -> None:
    """Raise ClickException, naming the option, for what is no port; distributed does not name it.

    There may be several, separated by commas, as there may be several protocols.
    """
    for port in ports.split(",") if ports else ():
        if not port.strip().isdecimal() or int(port) > 65535:
            raise click.ClickException(
                f"--port {ports}: expected a port like 8786, from 0 (any free one) to 65535"
            )
