"""Connections: what goes through them, when, and who writes it."""
