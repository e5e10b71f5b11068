"""The dialects. Each translates its API to the core and back, and decides nothing."""
