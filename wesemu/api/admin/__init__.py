"""The control API below `/_wesemu`: readiness, clock, faults, reset, prune, metrics and events."""
