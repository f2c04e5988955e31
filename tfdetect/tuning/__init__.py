"""Search for better experiments: search spaces, trials that survive interruptions, pruning."""
