"""Clusters that are broken in every way, see ``ci/faults``."""
