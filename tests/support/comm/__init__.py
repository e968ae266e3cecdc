"""Connections of either make, in this process and in others."""
