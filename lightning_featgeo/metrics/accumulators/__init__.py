"""Bounded, mergeable state: one accumulator a file."""
