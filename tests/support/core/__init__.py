"""The state machine: events and stories by hand, random ones, and the oracle they run beside."""
