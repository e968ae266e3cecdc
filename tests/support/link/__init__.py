"""The conversation with the scheduler: both ends of it."""
