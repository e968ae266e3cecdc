"""``fastworker doctor``: looks at an installation, a machine and a cluster, and says what to do."""
