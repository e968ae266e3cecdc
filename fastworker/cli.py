"""The ``fastworker`` command: ``dask worker`` with another default, and two commands below it.

The options are read from distributed's command at the start, so that both always have the same.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import difflib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from fastworker._version import __version__
from fastworker.deploy.errors import check_address, naming_preloads, one_line_for_errors

logger = logging.getLogger(__name__)

WORKER_CLASS = "fastworker.Worker"

HELP = "'fastworker --help' lists the options"

#: What the first word of a command line may be, in the place of an address.
COMMANDS = ("scheduler", "doctor", "demo")

TEXT = """Start fastworker workers that join a Dask scheduler.

\b
Other commands, with --help of their own:
  fastworker scheduler  start a Dask scheduler with the low-latency lane
  fastworker doctor     say what is amiss with installation, machine and cluster
  fastworker demo       run real work here, with the lane and without, beside dask worker

Where tasks take milliseconds, most of their time is waiting in scheduler and client. The
low-latency lane removes these waits: 'fastworker scheduler' and fastworker.LocalCluster have it.
"""

EPILOG = """
The options are those of 'dask worker': https://docs.dask.org/en/stable/deploying-cli.html.
The README and docs/ in fastworker's source say what is different. Settings are under 'fastworker'
in Dask's configuration; fastworker/fastworker.yaml in the installed package explains each.
"""


def worker_command() -> click.Command:
    """The command that starts workers, made from distributed's."""
    from distributed.cli.dask_worker import main as dask_worker

    params = [_adapted(param) for param in dask_worker.params if param.name != "version"]
    command = click.Command(
        name="fastworker",
        params=params,
        callback=_start_workers(dask_worker.callback),
        help=TEXT,
        epilog=EPILOG,
        context_settings={**dask_worker.context_settings, "help_option_names": ["-h", "--help"]},
    )
    return click.version_option(__version__, prog_name="fastworker")(command)


def _adapted(param: click.Parameter) -> click.Parameter:
    if param.name != "worker_class":
        return naming_preloads(param)
    param = copy.copy(param)
    param.default = WORKER_CLASS
    return param


def _start_workers(start: Callable[..., None]) -> Callable[..., None]:
    """distributed's callback that starts workers, with one line for each error of a user."""

    @functools.wraps(start)
    def start_workers(**options: Any) -> None:
        from fastworker.comm import use_configured

        _check_scheduler(options)
        _check_values(options)
        ports = ("worker_port", "nanny_port", "listen_address")
        with one_line_for_errors({_option(name): options[name] for name in ports}):
            use_configured()
            _wait_for_scheduler_file(options)
            with _our_nannies():
                start(**options)

    return start_workers


@contextlib.contextmanager
def _our_nannies() -> Iterator[None]:
    """Have distributed's command start fastworker's nannies.

    Why a patch: the command has an option for the class of workers, and none for that of nannies.
    """
    from distributed.cli import dask_worker

    from fastworker.nanny import Nanny

    before = getattr(dask_worker, "Nanny", None)
    if before is None:
        import distributed

        logger.warning(
            "The command of distributed %s cannot be told which nannies to start. They will be "
            "distributed's own, which have no deadline to end and do not say that they wait",
            distributed.__version__,
        )
        yield
        return
    dask_worker.Nanny = Nanny
    try:
        yield
    finally:
        dask_worker.Nanny = before


def _wait_for_scheduler_file(options: dict[str, Any]) -> None:
    """Wait until the scheduler has written its file, if there is to be one.

    Workers and nannies wait for it too, but block the event loop, so that the first Ctrl-C has no
    effect. distributed writes the --pid-file before that, so this does too.
    """
    from dask.utils import parse_timedelta
    from distributed.utils import json_load_robust

    from fastworker.link.waiting import saying_that_it_waits_for_file

    if path := options["scheduler_file"]:
        if pid_file := options["pid_file"]:
            Path(pid_file).write_text(str(os.getpid()))
            atexit.register(Path(pid_file).unlink, missing_ok=True)
        with saying_that_it_waits_for_file(logging.getLogger("distributed.worker"), path):
            json_load_robust(path, timeout=parse_timedelta(options.get("death_timeout")))


def _check_scheduler(options: dict[str, Any]) -> None:
    """Raise ClickException unless a scheduler is named, with a well-formed address."""
    import dask

    if options["scheduler_file"] and not options["scheduler"]:
        return
    address = options["scheduler"] or dask.config.get("scheduler-address", None)
    if not address:
        raise click.ClickException(
            "no scheduler given; name one like 'fastworker tcp://10.0.0.1:8786', "
            f"or use --scheduler-file; {HELP}"
        )
    if near := difflib.get_close_matches(address, COMMANDS, 1):
        raise click.ClickException(f"there is no command {address!r}; did you mean {near[0]!r}?")
    check_address(address, HELP)


def _check_values(options: dict[str, Any]) -> None:
    """Raise ClickException, naming the option, for a bad value; distributed does not name it."""
    parsers: dict[str, Callable[[str], object]] = {
        "worker_class": _parse_worker_class,
        "n_workers": lambda text: text == "auto" or int(text),
        "worker_port": _parse_ports,
        "nanny_port": _parse_ports,
        "memory_limit": _parse_memory_limit,
        "resources": _parse_resources,
        "death_timeout": _parse_time,
        "lifetime": _parse_time,
        "lifetime_stagger": _parse_time,
    }
    for name, parse in parsers.items():
        value = options.get(name)
        if value in (None, ""):
            continue
        try:
            parse(value)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise click.ClickException(f"{_option(name)} {value}: {error}") from error


def _option(name: str) -> str:
    """The option that distributed's callback gets by this name."""
    return "--nworkers" if name == "n_workers" else "--" + name.replace("_", "-")


def _parse_worker_class(path: str) -> None:
    from distributed import Nanny
    from distributed.utils import import_term

    try:
        found = import_term(path)
    except AttributeError as error:
        alike = difflib.get_close_matches(error.name or "", dir(error.obj), 1)
        raise AttributeError(
            f"{error}" + "".join(f"; did you mean {a!r}?" for a in alike)
        ) from None
    if isinstance(found, type) and issubclass(found, Nanny):
        raise TypeError(
            f"that is a nanny; use {WORKER_CLASS}, the nanny comes by itself (--no-nanny for none)"
        )


def _parse_ports(text: str) -> None:
    from distributed.utils import parse_ports

    if any(port is not None and not 0 <= port <= 65535 for port in parse_ports(text)):
        raise ValueError("expected a port or a range like 9000:9100, from 0 to 65535")


def _parse_memory_limit(text: str) -> None:
    from dask.utils import parse_bytes

    expected = "expected bytes like 8GB, a share like 0.9, 'auto', or 0 for no limit"
    if text == "auto":
        return
    try:
        value = float(text) if text.replace(".", "", 1).isdecimal() else parse_bytes(text)
    except ValueError:
        raise ValueError(expected) from None
    if value < 0:
        raise ValueError(expected)


def _parse_time(text: str) -> None:
    from dask.utils import parse_timedelta

    try:
        parse_timedelta(text)
    except (KeyError, ValueError):
        raise ValueError("expected a time like 30, '30s' or '1 hour'") from None


def _parse_resources(text: str) -> None:
    for pair in text.replace(",", " ").split():
        _, equals, amount = pair.partition("=")
        if not equals:
            raise ValueError(f"expected pairs like GPU=2, got {pair!r}")
        float(amount)


def _demo_command() -> click.Command:
    """The command of the demo. Exits with one line if a package that it needs is missing."""
    try:
        from fastworker.demo.command import demo_command
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fastworker"):
            raise
        click.echo(
            f"Error: 'fastworker demo' needs {package}, which is not installed; "
            "pip install 'fastworker[demo]', or '.[demo]' in its sources, installs what it needs",
            err=True,
        )
        sys.exit(1)
    return demo_command


def _check_distributed() -> None:
    """Exit with one line if the installed distributed is too old."""
    from fastworker.config.versions import check_distributed

    try:
        check_distributed()
    except ImportError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command. ``args`` are those after its name; by default, those of the process."""
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] != ["doctor"]:  # which says it beside all else
        _check_distributed()
    if args and args[0] == "demo":
        _demo_command().main(args=args[1:], prog_name="fastworker demo")
    elif args and args[0] == "scheduler":
        from fastworker.deploy.scheduler import scheduler_command

        scheduler_command().main(args=args[1:], prog_name="fastworker scheduler")
    elif args and args[0] == "doctor":
        from fastworker.doctor.command import doctor_command

        doctor_command.main(args=args[1:], prog_name="fastworker doctor")
    else:
        worker_command().main(args=args, prog_name="fastworker")


if __name__ == "__main__":
    main()
