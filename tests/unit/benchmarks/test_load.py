"""The load generator finds the end of a response."""

import pytest

from benchmarks.load import response_length

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-LENGTH: 5\r\nDate: x\r\n\r\n"


@pytest.mark.parametrize("body", [b"", b"12", b"12345", b"12345HTTP/1.1 200 OK"])
def test_the_length_is_of_head_and_body_of_the_first_answer(body: bytes) -> None:
    assert response_length(HEAD + body) == len(HEAD) + 5


def test_a_head_that_is_not_whole_has_no_length_yet() -> None:
    assert response_length(HEAD[:-1]) is None


def test_an_answer_must_tell_its_length() -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        response_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
