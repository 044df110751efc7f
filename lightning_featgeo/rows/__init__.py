"""From what was caught and what the batch says to rows that know their sample, view, label and group."""
