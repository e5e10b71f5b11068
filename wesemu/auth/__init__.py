"""Verification of tokens that are not listed in the settings."""
