"""Verification of credentials that need more than a list in the settings."""
