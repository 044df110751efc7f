"""What follows from the frozen accumulators of a window, each computed at most once."""
