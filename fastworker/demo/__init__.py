"""``fastworker demo``: a small cluster on this machine, real work, and stock workers beside it.

"stock" is what the user sees, and the name of a kind of cluster: distributed's own workers, as
``dask worker`` starts them.
"""
