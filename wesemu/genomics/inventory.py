"""Which tools runs would find on this machine now."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress

from wesemu.errors import ToolMissing
from wesemu.genomics.tools import OPTIONAL, Tool, resolve


def found_tools(commands: Mapping[str, str]) -> list[Tool]:
    """The required tools, and the optional ones that are there; `commands` are those of the
    setting `tools`. Raises ToolMissing.

    bwa is what maps where `mapper` is bwa: where that is bwa-mem3, the tool's note says so.
    """
    required = resolve(commands)
    tools = [required.mapper("bwa"), required.samtools, required.bcftools]
    with suppress(ToolMissing):
        if tools[0].name != "bwa-mem3":
            tools.append(required.mapper("bwa-mem3"))
    for name in OPTIONAL:
        with nullcontext() if name in commands else suppress(ToolMissing):
            tools.append(resolve(commands, more=[name]).find(name))
    return tools
