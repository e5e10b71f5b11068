"""Values out of JSON objects that may lack them."""

from wesemu.runs.model import JsonObject


def text(values: JsonObject, key: str) -> str:
    """The value as text, "" where there is none."""
    value = values.get(key)
    return "" if value is None else str(value)


def number(values: JsonObject, key: str) -> int:
    """A whole number, sent as one or as text; 0 where there is none."""
    return int(text(values, key) or 0)


def some(values: JsonObject, key: str) -> str | None:
    """The value as text, None where there is none."""
    return text(values, key) or None


def inner(values: JsonObject, key: str) -> JsonObject:
    """The object under `key`, {} where there is none."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def several(values: JsonObject, key: str) -> list[JsonObject]:
    """The objects in the list under `key`, [] where there is none."""
    value = values.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(values: JsonObject, key: str) -> dict[str, str]:
    """The object under `key` with its values as text."""
    return {name: str(value) for name, value in inner(values, key).items()}
