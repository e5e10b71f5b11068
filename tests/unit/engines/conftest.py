"""Makes the fixtures of engines known here."""

from support.engine_fixtures import any_engine, engine, module_engine, no_leftovers

__all__ = ["any_engine", "engine", "module_engine", "no_leftovers"]
