"""No names for Python: see counts.pxd."""
