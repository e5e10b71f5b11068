"""Which tools runs would find on this machine now."""

from contextlib import suppress

from wesemu.errors import ToolMissing
from wesemu.genomics.tools import OPTIONAL, Tool, resolve


def found_tools() -> list[Tool]:
    """The required tools, and the optional ones that are there. Raises ToolMissing."""
    tools = list(resolve().all)
    for name in OPTIONAL:
        with suppress(ToolMissing):
            tools += (tool for tool in resolve(more=[name]).all if tool.name == name)
    return tools
