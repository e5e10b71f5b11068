"""Which tools runs would find on this machine now."""

from contextlib import suppress

from wesemu.errors import ToolMissing
from wesemu.genomics.tools import OPTIONAL, Tool, resolve


def found_tools() -> list[Tool]:
    """The required tools, and the optional ones that are there. Raises ToolMissing.

    bwa is what maps where `mapper` is bwa: where that is bwa-mem3, the tool's note says so.
    """
    required = resolve()
    tools = [required.mapper("bwa"), required.samtools, required.bcftools]
    with suppress(ToolMissing):
        if tools[0].name != "bwa-mem3":
            tools.append(required.mapper("bwa-mem3"))
    for name in OPTIONAL:
        with suppress(ToolMissing):
            tools += (tool for tool in resolve(more=[name]).all if tool.name == name)
    return tools
