"""Helpers for tests that need no workflow engine."""
