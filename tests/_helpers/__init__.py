"""What tests and benchmarks share: data, models, reference formulas, processes, ways to execute, readers of files."""
