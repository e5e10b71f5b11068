"""Text from workflows and servers, made harmless for terminals.

A log, a tag or a file name could otherwise move the cursor, retitle the window, hide text or have
the terminal type something (ECMA-48; xterm's control sequences).
"""

import codecs
import json
import re

_COLORS = re.compile("\x1b\\[[0-9;:]*m")
_LINE_ENDS = re.compile("\r\n?")
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions
    "\u2028\u2029\ufff9-\ufffb\ud800-\udfff]"
)
_ONE_LINE = re.compile("[\t\n]")


def harmless(text: str) -> str:
    """Colors are taken out, line ends become line feeds, and every other control character is
    written out, as `\\x1b`."""
    return _HARMFUL.sub(_written, _LINE_ENDS.sub("\n", _COLORS.sub("", text)))


def harmless_cell(text: str) -> str:
    """As `harmless`, on one line."""
    return _ONE_LINE.sub(_written, harmless(text))


def harmless_json(value: object) -> str:
    """A JSON document of the same value, without a character that a terminal acts upon."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class HarmlessText:
    """Bytes in pieces as harmless text; a piece may end within a character or a sequence."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._held = ""

    def add(self, chunk: bytes) -> str:
        text = self._held + self._decode(chunk)
        whole = max(text.rfind("\n"), len(text) - _LONGEST)
        keep = text.find("\x1b", whole + 1) if text.rfind("\x1b") > whole else -1
        end = len(text) if keep < 0 else keep
        if text[:end].endswith("\r"):
            end -= 1
        self._held = text[end:]
        return harmless(text[:end])

    def end(self) -> str:
        text, self._held = self._held + self._decode(b"", True), ""
        return harmless(text)


_LONGEST = 64
"""Letters of a sequence that is not whole yet and waited for."""


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    match found[0]:
        case "\n":
            return "\\n"
        case "\t":
            return "\\t"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
