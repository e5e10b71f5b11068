"""`python -m wesemu.engines.leased ORDER COMMAND…`: a whole command under one lease.

For engines that cannot tell when a task starts: the command's process waits for its turn, becomes
the command, and has the lease until that has ended. ORDER is made by
`wrap`. SIGTERM ends the waiting at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from wesemu.engines.leases import LeaseDesk
from wesemu.engines.standings import standing_from_json, standing_to_json
from wesemu.engines.tickets import devices_environment
from wesemu.runs.model import Resources
from wesemu.runs.ports import Standing


def wrap(python: str, command: Sequence[str], standing: Standing, wanted: Resources) -> list[str]:
    """The command line that runs `command` once it has what it wants of the node."""
    order = {
        "standing": standing_to_json(standing),
        "wanted": asdict(wanted),
    }
    return [python, "-P", "-m", "wesemu.engines.leased", json.dumps(order), *command]


def main() -> None:
    order = json.loads(sys.argv[1])
    standing = standing_from_json(order["standing"])
    assert standing is not None
    desk = LeaseDesk(standing)
    lease = desk.take(Resources(**order["wanted"]))
    os.set_inheritable(lease.fileno(), True)
    environment = {**os.environ, **devices_environment(lease.devices)}
    os.execvpe(sys.argv[2], sys.argv[2:], environment)  # noqa: S606


if __name__ == "__main__":
    main()
