"""Plain training runs with logs and checkpoints, of one process or of many ranks."""
