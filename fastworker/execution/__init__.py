"""Running tasks: threads that fetch their own work, and the engine that they get it from."""
