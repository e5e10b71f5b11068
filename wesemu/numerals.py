"""Whole numbers that callers write."""


def whole_number(text: str, *, most_digits: int = 9) -> int | None:
    """The number that plain decimal digits say; None for anything else, and for longer ones."""
    digits = text.lstrip("0") or "0"
    if not text.isascii() or not text.isdecimal() or len(digits) > most_digits:
        return None
    return int(digits)
