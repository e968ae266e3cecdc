"""Whole clusters of processes: how they are started, and what runs on them."""
