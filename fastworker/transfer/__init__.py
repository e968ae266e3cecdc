"""Results between workers: fetching them from peers, and serving them to peers."""
