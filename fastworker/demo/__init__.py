"""``fastworker demo``: a small cluster on this machine, real work, and stock workers beside it."""

from fastworker.demo.command import demo_command

__all__ = ["demo_command"]
