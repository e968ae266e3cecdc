"""The ``fastworker doctor`` command: its options, and what it prints."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from shutil import get_terminal_size

import click
import dask

from fastworker.deploy.errors import check_address
from fastworker.doctor.cluster import examine
from fastworker.doctor.findings import Finding
from fastworker.doctor.here import look

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "red")}

HELP = """Look at this installation and machine, and at the cluster of a scheduler if one is named.

Each line says what was found, and what to do about it if something is amiss: a "note" costs time or
may surprise, a "problem" fails jobs. Exits with 1 if there is a problem, else with 0.
"""


@click.command(
    name="fastworker doctor",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("scheduler", required=False)
@click.option(
    "--scheduler-file",
    type=click.Path(exists=True, dir_okay=False),
    help="The file that the scheduler wrote, in the place of its address.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the scheduler.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(
    scheduler: str | None, scheduler_file: str | None, timeout: float, as_json: bool
) -> None:
    """Print the report, and exit with its status."""
    for name in ("distributed", "fastworker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the report says it
    address = _address(scheduler, scheduler_file)
    if address:
        check_address(address, "'fastworker doctor --help' lists the options")
    here = look()
    cluster, workers = examine(address, timeout) if address else ([], {})
    everything = [*here, *cluster, *(f for found in workers.values() for f in found)]
    if as_json:
        report = {
            "here": [asdict(finding) for finding in here],
            "cluster": [asdict(finding) for finding in cluster],
            "workers": {at: [asdict(f) for f in found] for at, found in workers.items()},
        }
        click.echo(json.dumps(report, indent=2))
    else:
        _print("This machine", here)
        if address:
            _print(f"Cluster of {address}", cluster)
            _print("Workers with fastworker", list(_together(workers)))
        else:
            click.echo("To have a cluster looked at too: 'fastworker doctor tcp://10.0.0.1:8786'")
    sys.exit(any(finding.level == "problem" for finding in everything))


def _address(scheduler: str | None, scheduler_file: str | None) -> str | None:
    if scheduler_file:
        try:
            with open(scheduler_file) as file:
                address: str = json.load(file)["address"]
                return address
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(
                f"--scheduler-file {scheduler_file}: no file of a scheduler ({error!r})"
            ) from error
    return scheduler or dask.config.get("scheduler-address", None)


def _together(workers: dict[str, list[Finding]]) -> Iterator[Finding]:
    """The findings of all workers, each once, with the workers it is about if it is amiss."""
    about: dict[Finding, list[str]] = defaultdict(list)
    for address, findings in workers.items():
        for finding in findings:
            about[finding].append(address)
    amiss = {finding: at for finding, at in about.items() if finding.level != "ok"}
    for finding, at in amiss.items():
        where = "all" if len(at) == len(workers) else ", ".join(at)
        yield Finding(finding.name, f"{finding.text} ({where})", finding.level, finding.advice)
    well = len(workers) - len({at for places in amiss.values() for at in places})
    if workers:
        yield Finding("workers", f"{well} of {len(workers)} without a note or a problem")


def _print(title: str, findings: Iterable[Finding]) -> None:
    if not findings:
        return
    click.secho(title, bold=True)
    width = min(get_terminal_size().columns, 110)
    for finding in findings:
        mark, colour = MARKS[finding.level]
        lead = f"  {mark:8}{finding.name:17} "
        first, *rest = textwrap.wrap(
            finding.text, width, initial_indent=lead, subsequent_indent=" " * len(lead)
        )
        click.echo(click.style(first[:9], fg=colour) + first[9:])
        for line in rest:
            click.echo(line)
        if finding.advice:
            click.echo(
                textwrap.fill(
                    "-> " + finding.advice,
                    width,
                    initial_indent=" " * len(lead),
                    subsequent_indent=" " * (len(lead) + 3),
                )
            )
    click.echo()
