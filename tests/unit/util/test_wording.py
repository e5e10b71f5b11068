"""Plain messages for errors of the system, of JSON and of pydantic."""

import errno
import json
import os
from typing import Any

import pytest
from pydantic import ValidationError

from wesemu.settings import Settings
from wesemu.util.text import json_reason, network_reason, os_reason, os_sentence, validation_reason

FOREIGN = ("Errno", "pydantic", "Input should", "Expecting", "Value error", "lax-or-strict", "func")


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_has_words(number: int) -> None:
    told = os_reason(OSError(number, os.strerror(number)))
    assert told
    assert "[Errno" not in told


def test_the_file_is_named() -> None:
    assert os_sentence(FileNotFoundError(errno.ENOENT, "x", "/a")) == "/a: it does not exist"
    assert os_sentence(OSError(errno.ENOSPC, "x")) == "the disk is full"
    assert os_sentence(OSError("closed")) == "closed"
    assert network_reason(TimeoutError()) == "there is no answer in time"
    assert network_reason(ConnectionRefusedError(errno.ECONNREFUSED, "x")).startswith("the conn")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON from line 1, column 2 on"),
        ("[1,\n 2 3]", "not JSON from line 2, column 4 on"),
        ("\ufeff{}", "not JSON: it begins with a byte order mark"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "JSON with a number that is too long"),
    ],
)
def test_where_a_text_stops_to_be_json(text: str, told: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as error:
        json.loads(text)
    assert json_reason(error.value) == told


@pytest.mark.parametrize(
    ("settings", "field", "reason"),
    [
        ({"port": "abc"}, "port", "must be a whole number, not 'abc'"),
        ({"sla": {"pace": "slow"}}, "sla.pace", "must be 'real' or 'sla', not 'slow'"),
        ({"nothing": 1}, "nothing", "is not known; leave it out or correct its name"),
        ({"server": {"connections": -1}}, "server.connections", "must be 0 or more, not -1"),
        (
            {"callbacks": {"secret": "whsec_!"}},
            "callbacks.secret",
            "the text after whsec_ must be base64",
        ),
        ({"remote_buckets": {"Bad": {}}}, "remote_buckets.Bad", "must have the form "),
        ({"node": {"gpus": "many"}}, "node.gpus", "must be 'auto' or a whole number or a list"),
        (
            {"callbacks": {"networks": ["x"]}},
            "callbacks.networks.0",
            "must be an IPv4 network such as 10.0.0.0/8 or an IPv6 network such as fd00::/8",
        ),
    ],
)
def test_a_setting_s_fault_is_one_sentence(
    settings: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(**settings)
    told = validation_reason(error.value)
    assert told[0] == field
    assert told[1].startswith(reason)
    assert not any(word in "".join(told) for word in FOREIGN)
