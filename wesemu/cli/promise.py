"""A run's service level in one line."""

from collections.abc import Mapping

_SLA = "wesemu.sla."


def service_level(tags: Mapping[str, str]) -> str | None:
    """What the server tells in a run's tags (docs/sla.md); None for a run without a size."""
    if f"{_SLA}minutes" not in tags and f"{_SLA}predicted_finish" not in tags:
        return None
    told = [f"service level {tags.get(f'{_SLA}level', '')}"]
    if f"{_SLA}minutes" in tags:
        told.append(
            f"{int(tags[f'{_SLA}bases']):,} bases: {tags[f'{_SLA}minutes']} min, "
            f"{tags[f'{_SLA}price_cny']} CNY"
        )
    match tags.get(f"{_SLA}met"):
        case "true":
            told.append("kept")
        case "false":
            told.append(f"missed, {tags[f'{_SLA}charged_cny']} CNY are charged")
    if f"{_SLA}predicted_finish" in tags:
        told.append(f"expected to end at {tags[f'{_SLA}predicted_finish']}")
    if "wesemu.real.seconds" in tags:
        told.append(f"the tools took {tags['wesemu.real.seconds']} s")
    if "wesemu.pace" in tags:
        told.append(f"pace {tags['wesemu.pace']}")
    return "; ".join(told)
