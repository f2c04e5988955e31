"""Standard benchmarks: their layouts, protocols and published tables, and the scores of runs."""
