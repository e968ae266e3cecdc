"""What a worker tells of itself: heartbeats, figures, profiles, pages, its state in the log."""
