"""From a module's forward to tensors: which modules (heads), hooks (taps, stash), what was caught (sources)."""
