"""Steering one worker other than by the scheduler's messages: by hand, when it is paused, when it
has lost a result, when it is told to end."""
