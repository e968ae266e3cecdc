"""What a worker reports about itself: heartbeats, figures, profiles, pages, its state in the log."""
