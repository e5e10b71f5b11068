"""The demo: runs real tools through both APIs and checks all results against a known truth."""
