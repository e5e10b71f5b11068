"""The control API below `/_wesemu`: readiness, clock, faults, reset, metrics, events."""
