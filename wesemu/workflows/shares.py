"""How much of the node a run asks for."""

from collections.abc import Mapping

from wesemu.errors import InvalidRequest
from wesemu.runs.model import Resources


def share(parameters: Mapping[str, str], default: int, node: Resources) -> Resources:
    """The cores of the engine parameter `cores`, else `default`, never more than the node's.

    Raises InvalidRequest for a number that the node can never give.
    """
    asked = parameters.get("cores")
    if asked is None:
        return Resources(cores=min(default, node.cores))
    if not asked.isascii() or not asked.isdigit() or not 1 <= int(asked[:9]) <= node.cores:
        raise InvalidRequest(
            f"the engine parameter cores is {asked[:40]!r}; this node has 1 to {node.cores}",
            field="workflow_engine_parameters.cores",
        )
    return Resources(cores=int(asked))
