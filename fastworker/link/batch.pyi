"""The rest has no names for Python: see batch.pxd."""

from distributed.protocol.utils import msgpack_opts as msgpack_opts

class OutgoingBatch: ...
