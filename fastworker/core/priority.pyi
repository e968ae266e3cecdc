# Nothing here for Python: see priority.pxd
