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
from distributed.security import Security

from fastworker.deploy.errors import check_address
from fastworker.doctor.cluster import Report, examine
from fastworker.doctor.findings import Finding
from fastworker.doctor.here import look

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "red")}

HELP = """Look at this installation and machine, and at the cluster of a scheduler if one is named.

Each line says what was found, and what to do about it if something is amiss: a "note" costs time or
may surprise, a "problem" fails jobs. Exits with 1 if there is a problem, else with 0.
"""


FILE = click.Path(exists=True, dir_okay=False)


@click.command(
    name="fastworker doctor",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("scheduler", required=False)
@click.option(
    "--scheduler-file",
    type=FILE,
    help="The file that the scheduler wrote, in the place of its address.",
)
@click.option("--tls-ca-file", type=FILE, help="The CA of the cluster's certificates (PEM).")
@click.option("--tls-cert", type=FILE, help="The certificate to show (PEM).")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.option(
    "--timeout",
    type=float,
    default=10.0,
    show_default=True,
    help="Seconds to wait for the scheduler, and for each answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(
    scheduler: str | None,
    scheduler_file: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Print the report, and exit with its status."""
    for name in ("distributed", "fastworker", "asyncio", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the report says it
    if not timeout > 0:
        raise click.ClickException(f"--timeout {timeout:g}: expected seconds, more than 0")
    if scheduler and scheduler_file:
        raise click.ClickException(f"give {scheduler} or --scheduler-file, not both")
    address = _address(scheduler, scheduler_file)
    if address:
        check_address(address, "'fastworker doctor --help' lists the options")
    here = look()
    if not as_json:
        _print("This machine", here)
    report = Report([], {})
    if address:
        report = examine(address, _security(tls_ca_file, tls_cert, tls_key), timeout)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "here": [asdict(finding) for finding in here],
                    "cluster": [asdict(finding) for finding in report.cluster],
                    "workers": {
                        at: [asdict(f) for f in found] for at, found in report.workers.items()
                    },
                },
                indent=2,
            )
        )
    elif address:
        _print(f"Cluster of {address}", report.cluster)
        _print("Workers with fastworker", list(_together(report.workers)))
    else:
        click.echo("To have a cluster looked at too: 'fastworker doctor tcp://10.0.0.1:8786'")
    everything = [*here, *report.cluster, *(f for found in report.workers.values() for f in found)]
    sys.exit(any(finding.level == "problem" for finding in everything))


def _security(ca_file: str | None, cert: str | None, key: str | None) -> Security:
    given = {"tls_ca_file": ca_file, "tls_client_cert": cert, "tls_client_key": key}
    return Security(**{name: value for name, value in given.items() if value})


def _address(scheduler: str | None, scheduler_file: str | None) -> str | None:
    if scheduler_file:
        try:
            with open(scheduler_file) as file:
                address = json.load(file)["address"]
            if not isinstance(address, str) or not address:
                raise ValueError(address)
            return address
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(
                f"--scheduler-file {scheduler_file}: no scheduler wrote it, as it is no JSON with "
                "an address"
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
            finding.text,
            width,
            initial_indent=lead,
            subsequent_indent=" " * len(lead),
            break_long_words=False,
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
                    break_long_words=False,
                )
            )
    click.echo()
