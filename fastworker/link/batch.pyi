"""No names for Python: see batch.pxd."""
