"""``fastworker demo``: a small cluster on this machine, real work, and stock workers beside it."""
