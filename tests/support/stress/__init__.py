"""Workers under load from many threads, see ``ci/stress``."""
