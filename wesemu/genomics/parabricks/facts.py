"""What a workflow wants to know of Parabricks before anything runs."""

from collections.abc import Mapping
from typing import Any

from wesemu.genomics.parabricks.options import options_from
from wesemu.genomics.parabricks.preflight import choose_place, find_version
from wesemu.genomics.tools import Tool


def parabricks_tool(config: Mapping[str, Any]) -> Tool:
    """`config` is the configuration's object `parabricks`. The version of a native pbrun is asked
    for, that of an image is what its tag says; "unknown" where neither tells it."""
    options = options_from(config)
    place, _ = choose_place(options)
    native = place == "native"
    version = find_version(["pbrun", "version"] if native else [], options.image)
    return Tool(
        "parabricks",
        ("pbrun",),
        "unknown" if version is None else ".".join(map(str, version)),
        "path" if native else "settings",
    )
