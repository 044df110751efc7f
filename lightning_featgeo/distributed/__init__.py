"""Processes, and the collectives that a window takes; whole tensors out of DTensor and FSDP."""
