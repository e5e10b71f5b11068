"""How many cores a run may use at a time; what it does use is leased task by task."""

from collections.abc import Mapping

from wesemu.engine_parameters import value_of
from wesemu.errors import InvalidRequest
from wesemu.numerals import whole_number
from wesemu.runs.model import Resources

_CORES = "cores"

NODE = "node"
"""The engine parameter that says where: auto, cpu or cuda. AGS's field is `wesemu_node`."""

GPUS = "gpus"
"""The engine parameter for the GPUs of a run's tasks. AGS's field is `wesemu_gpus`."""


def cores_of(parameters: Mapping[str, str], node: Resources) -> int:
    """The cores of the engine parameter `cores`, else all of the node's.

    Raises InvalidRequest for a number that the node can never give.
    """
    asked = value_of(parameters, _CORES)
    if asked is None or asked.strip().casefold() == "all":
        return node.cores
    cores = whole_number(asked)
    if cores is None or not 1 <= cores <= node.cores:
        raise InvalidRequest(
            f"the engine parameter cores is {asked[:40]!r}; this node has 1 to {node.cores}",
            field="workflow_engine_parameters.cores",
        )
    return cores
