"""Makes the fixtures of the WES tests known here."""

from api.wes.fixtures import core, ended, serve, submit, wes

__all__ = ["core", "ended", "serve", "submit", "wes"]
