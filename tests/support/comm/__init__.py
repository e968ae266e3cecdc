"""Both ends of a connection."""
