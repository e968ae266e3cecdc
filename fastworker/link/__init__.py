"""The conversation with the scheduler: its messages decoded, the worker's collected and sent."""
