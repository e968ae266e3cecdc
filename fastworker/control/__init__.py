"""How one worker is steered from outside the scheduler's messages: by hand, when it is paused, when
it has lost a result, when it is told to end."""
