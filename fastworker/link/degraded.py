"""Replaces a message to the scheduler that cannot be packed by a poorer form, or drops it."""

from __future__ import annotations

from typing import Any

from distributed.protocol import pickle
from distributed.protocol.serialize import Serialize, ToPickle

from fastworker.config.logs import get_logger
from fastworker.wire.encode_objects import MessagePacker

logger = get_logger("wire")

#: Characters of the text in the exception that replaces one that cannot be sent.
MAX_TEXT = 10_000


class CannotSend(Exception):
    """A message that the scheduler must have, and that cannot be sent in any form."""


class ReportPacker(MessagePacker):
    """Packs the messages of one batch to the scheduler."""

    #: How many messages were sent in a poorer form, and how many not at all.
    degraded = unsendable = 0

    def pack_surely(self, message: Any) -> bytes | None:
        """The message as msgpack, in a poorer form if need be; None if it can be left out.

        Each such case is logged as an error. Raises CannotSend for a task's end that cannot be
        reported at all: the scheduler would wait for it for ever.
        """
        try:
            return self.pack(message)
        except Exception as error:
            return self._pack_poorer(message, error)

    def _pack_poorer(self, message: Any, first: Exception) -> bytes | None:
        name = describe(message)
        for poorer, loss in poorer_forms(message, first):
            try:
                packed = self.pack(poorer)
            except Exception:
                continue
            logger.error("Sent %s %s, as it cannot be packed", name, loss, exc_info=first)
            self.degraded += 1
            return packed
        if operation(message) in ("task-finished", "task-erred"):
            raise CannotSend(f"cannot send {name}") from first
        logger.error("Not sent: %s, as it cannot be packed", name, exc_info=first)
        self.unsendable += 1
        return None


def operation(message: Any) -> Any:
    return message.get("op") if type(message) is dict else None


def describe(message: Any) -> str:
    """A message's name for the logs, without calling anything of the user's but a key's repr."""
    if type(message) is not dict:
        return f"a {type(message).__name__}"
    name = f"message {message.get('op')!r:.100}"
    for field in ("key", "keys", "topic"):
        if field in message:
            try:
                return f"{name} about {message[field]!r:.200}"
            except Exception:
                break
    return name


def poorer_forms(message: Any, error: Exception) -> list[tuple[dict[str, Any], str]]:
    """What can be sent in a message's place, and what that loses; the least loss first."""
    op = operation(message)
    if op == "task-finished":
        metadata = message.get("metadata")
        out = []
        if isinstance(metadata, dict):
            kept = {name: ToPickle(value) for name, value in metadata.items()}
            out.append(({**message, "metadata": kept}, "with its metadata pickled"))
        bare = {**message, "metadata": {}}
        out.append((bare, "without its metadata"))
        out.append(({**bare, "startstops": [], "thread": None}, "without metadata and timings"))
        return out
    if op == "task-erred":
        texts = {
            field: printable(message.get(field)) for field in ("exception_text", "traceback_text")
        }
        instead = Exception(texts["exception_text"][:MAX_TEXT] or repr(error))
        with_texts = {**message, **texts}
        bare = {
            **with_texts,
            "exception": Serialize(pickle.dumps(instead)),
            "traceback": None,
        }
        return [
            (with_texts, "with its texts made printable"),
            (bare, "with its exception as text and without its traceback"),
            ({**bare, "startstops": [], "thread": None}, "with its exception as text only"),
        ]
    return []


def printable(text: Any) -> str:
    """A text that is valid Unicode: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""
