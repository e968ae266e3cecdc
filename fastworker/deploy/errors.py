"""One line for each error of a user of a command, in the place of a traceback."""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import ssl
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
        line = str(error) + _taken(error, ports) + _advice(error)
        raise click.ClickException(line) from error
    except RuntimeError as error:
        if told_by_signal():
            # A signal ended a nanny that waited for its scheduler or worker: no error
            logger.debug("Ended while starting", exc_info=True)
            return
        # distributed's message is "Worker failed to start"; the user needs the causes
        if error.__cause__ is None:
            raise
        logger.debug("Could not start", exc_info=True)
        line = _with_causes(error) + _taken(error, ports) + _advice(error)
        raise click.ClickException(line) from error


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


#: What to do about an error of TLS.
CERTIFICATES = (
    "; certificates are named by --tls-ca-file, --tls-cert and --tls-key, or by "
    "distributed.comm.tls in Dask's configuration"
)
WITHOUT_TLS = "; the address of a scheduler without TLS is like tcp://10.0.0.1:8786"
WITH_TLS = "; the address of a scheduler with TLS is like tls://10.0.0.1:8786"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _with_causes(error: BaseException) -> str:
    """The texts of an error and of its causes; a text that repeats a part of one is left out."""
    texts: list[str] = []
    for cause in _chain(error):
        text = str(cause) or type(cause).__name__
        if not any(text in earlier for earlier in texts):
            texts.append(text)
    return " ".join(texts)


def _taken(error: BaseException, ports: Mapping[str, object]) -> str:
    """The options that ask for a port, if the error is that another process has it."""
    if not any(getattr(cause, "errno", None) == errno.EADDRINUSE for cause in _chain(error)):
        return ""
    given = [f"{option} {value}" for option, value in ports.items() if value not in (None, "")]
    return f" ({', '.join(given)})" if given else ""


def _advice(error: BaseException) -> str:
    """What to do about certificates that do not match, or an end without TLS."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLError):
            return WITHOUT_TLS if cause.reason == "WRONG_VERSION_NUMBER" else CERTIFICATES
        if isinstance(cause, TypeError) and "ssl_context" in str(cause):
            return CERTIFICATES
        if isinstance(cause, ConnectionResetError):
            return WITH_TLS
    return ""
