"""Results: what is in memory, what is on disk, and how much of it there is."""
