"""One line for each error of a user of a command, in the place of a traceback."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator, Mapping

import click

logger = logging.getLogger("fastworker.cli")


@contextlib.contextmanager
def one_line_for_errors(ports: Mapping[str, object]) -> Iterator[None]:
    """Raise ClickException for what can go wrong while a command starts its servers.

    Parameters
    ----------
    ports
        ``{option: value}`` of the options that ask for a port or an address. The line for a port
        that another process has names them; None and "" mean that an option was not given.
    """
    from fastworker.control.ending import told_by_signal

    try:
        yield
    except (OSError, ValueError) as error:
        logger.debug("Could not start", exc_info=True)
        raise click.ClickException(str(error)) from error
    except RuntimeError as error:
        if told_by_signal():
            # A signal ended a nanny that waited for its scheduler or worker: no error
            logger.debug("Ended while starting", exc_info=True)
            return
        # distributed's message is "Worker failed to start"; the user needs the causes
        if error.__cause__ is None:
            raise
        logger.debug("Could not start", exc_info=True)
        raise click.ClickException(_with_causes(error) + _taken(error, ports)) from error


def _with_causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error) or type(error).__name__)
        error = error.__cause__
    return " ".join(texts)


def _taken(error: BaseException, ports: Mapping[str, object]) -> str:
    """The options that ask for a port, if the error is that another process has it."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
        return ""
    given = [f"{option} {value}" for option, value in ports.items() if value not in (None, "")]
    return f" ({', '.join(given)})" if given else ""
