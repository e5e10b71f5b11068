"""Registers the fixtures of engines."""

from support.engine_fixtures import any_engine, engine, module_engine, no_leftovers

__all__ = ["any_engine", "engine", "module_engine", "no_leftovers"]
