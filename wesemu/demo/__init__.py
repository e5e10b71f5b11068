"""The demonstration: real tools, both APIs, every answer checked against a known truth."""
