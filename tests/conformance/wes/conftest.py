"""Registers the fixtures of WES tests."""

from api.wes.fixtures import core, ended, serve, submit, wes

__all__ = ["core", "ended", "serve", "submit", "wes"]
