# Nothing here is for Python: see strings.pxd
