"""Helpers that tests of several folders share: servers, engines, doubles, sample data."""
