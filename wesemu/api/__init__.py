"""The HTTP APIs. Each one translates between its protocol and the core, and decides nothing."""
