"""What a worker reports of itself: heartbeats, figures, profiles, pages, its state in the log."""
