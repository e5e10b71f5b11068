"""Text from workflows and servers cannot control the terminal."""

import json
import unicodedata

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from wesemu.cli.output import (
    StreamSanitizer,
    print_json,
    print_note,
    print_result,
    print_table,
    sanitize,
    sanitize_cell,
)
from wesemu.cli.serve import log_to_stderr

ATTACKS = [
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1b[2J\x1b[H",
    "\x1b[6n",
    "\x9b31m",
    "\x1bP$q\x1b\\",
    "a\x08\x08b",
    "\u202eevil\u202c",
    "\x7f\x00\x1f\x85",
]


def controls(text: str, *, but: str = "\n\t") -> list[str]:
    return [
        letter
        for letter in text
        if letter not in but and unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
    ]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_that_is_printed_holds_a_control_character(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    print_note(text)
    print_result(text)
    print_json({text: [text]})
    print_table(("NAME", text), [(text, f"{text}\nnext")])
    printed = capsys.readouterr()
    assert not controls(printed.out + printed.err)
    assert "\u202e" not in printed.out + printed.err


@pytest.mark.parametrize("text", ATTACKS)
def test_json_is_of_the_same_value(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_json({"log": text})
    assert json.loads(capsys.readouterr().out) == {"log": text}


def test_what_is_harmless_stays_and_colors_go() -> None:
    assert sanitize("größe 中文 ✓\n\ttab") == "größe 中文 ✓\n\ttab"
    assert sanitize("\x1b[1;31mred\x1b[0m") == "red"
    assert sanitize("10 %\r20 %\r\nend") == "10 %\n20 %\nend"
    assert sanitize_cell("two\nlines\tand") == "two\\nlines\\tand"
    assert sanitize("\x1b]0;x\x07") == "\\x1b]0;x\\x07"


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_pieces_are_as_harmless_as_the_whole(pieces: list[bytes]) -> None:
    text = StreamSanitizer()
    told = "".join([text.add(piece) for piece in pieces] + [text.end()])
    assert told == sanitize(b"".join(pieces).decode("utf-8", "replace"))


def test_a_sequence_in_two_pieces_is_one() -> None:
    text = StreamSanitizer()
    told = [text.add(b"\x1b["), text.add(b"31mred\xc3"), text.add(b"\xa4\r"), text.add(b"\n")]
    assert "".join([*told, text.end()]) == "redä\n"


def test_the_server_s_log_is_harmless_too(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        log_to_stderr(verbose=True)
        log = structlog.get_logger("test")
        log.info("request\x1b[2J", path="/\x1b]0;title\x07\nfake line")
        try:
            raise ValueError("\x1b]0;title\x07")
        except ValueError:
            log.exception("internal error")
    finally:
        structlog.configure(**before)
    printed = capsys.readouterr().err
    assert "internal error" in printed
    assert "'/\\x1b]0;title\\x07\\nfake line'" in printed
    assert not controls(printed)
