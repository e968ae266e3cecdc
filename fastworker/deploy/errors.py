"""One line for each error of a user of a command, in the place of a traceback."""

from __future__ import annotations

import contextlib
import copy
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
        raise click.ClickException(str(error) + _taken(error, ports)) from error
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


def naming_preloads(param: click.Parameter) -> click.Parameter:
    """The parameter, which names the option if a module to be preloaded cannot be imported.

    distributed's callback of ``preload_argv`` imports the modules while click parses the options.
    """
    check = param.callback
    if param.name != "preload_argv" or check is None:
        return param

    def callback(context: click.Context, its: click.Parameter, value: object) -> object:
        try:
            return check(context, its, value)
        except (ImportError, OSError, SyntaxError) as error:
            names = " ".join(context.params.get("preload", ()))
            raise click.ClickException(f"--preload {names}: {error}") from error

    param = copy.copy(param)
    param.callback = callback
    return param


def check_address(address: str, help_text: str) -> None:
    """Raise ClickException, which ends with ``help_text``, for what is no address of a scheduler.

    The scheduler and its host need not exist.
    """
    from distributed.comm import get_address_host_port
    from distributed.comm.registry import backends, get_backend

    example = f"expected one like tcp://10.0.0.1:8786; {help_text}"
    if any(letter.isspace() for letter in address):
        raise click.ClickException(f"{address!r} is no address of a scheduler; {example}")
    scheme = address.partition("://")[0] if "://" in address else None
    try:
        if scheme is not None:
            get_backend(scheme)
        host, _ = get_address_host_port(address)
    except ValueError as error:
        if scheme in backends and scheme == "inproc":
            return
        raise click.ClickException(
            f"{address!r} is no address of a scheduler ({error}); {example}"
        ) from error
    if not host:
        raise click.ClickException(f"{address!r} names no host; {example}")


def _with_causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(str(error) or type(error).__name__)
        error = error.__cause__
    return " ".join(texts)


def _taken(error: BaseException, ports: Mapping[str, object]) -> str:
    """The options that ask for a port, if the error is that another process has it."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) != errno.EADDRINUSE:
        cause = cause.__cause__
    if cause is None:
        return ""
    given = [f"{option} {value}" for option, value in ports.items() if value not in (None, "")]
    return f" ({', '.join(given)})" if given else ""
