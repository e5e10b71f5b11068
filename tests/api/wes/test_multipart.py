"""The form reader returns the same parts for any split of the stream."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from hypothesis import given
from hypothesis import strategies as st

from wesemu.api.wes.multipart import FormReader, parse_disposition
from wesemu.errors import InvalidRequest

Parts = list[tuple[str, str | None, bytes]]


def encode(parts: Parts) -> bytes:
    written = b""
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        written += head.encode() + content + b"\r\n"
    return written + b"--B--\r\n"


async def read(body: bytes, step: int, *, upload: int = 1 << 20) -> Parts:
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    for start in range(0, len(body), step):
        stream.feed_data(body[start : start + step])
    stream.feed_eof()
    return [
        (part.name, part.filename, b"".join([chunk async for chunk in part.chunks]))
        async for part in FormReader(stream, "B", upload=upload, parts=10)
    ]


CONTENT = st.one_of(st.binary(max_size=60), st.text("\r\n-B", max_size=20).map(str.encode)).filter(
    lambda content: b"\r\n--B" not in b"\r\n" + content
)
NAME = st.text("abc", min_size=1, max_size=3)


@given(
    parts=st.lists(st.tuples(NAME, st.none() | NAME, CONTENT), max_size=5),
    preamble=st.sampled_from([b"", b"\r\n", b"x\r\n"]),
    epilogue=st.sampled_from([b"", b"\r\n", b"x"]),
    step=st.integers(1, 70),
)
def test_parts_come_out_as_they_went_in(
    parts: Parts, preamble: bytes, epilogue: bytes, step: int
) -> None:
    assert asyncio.run(read(preamble + encode(parts) + epilogue, step)) == parts


@given(body=st.text("\r\n-B:; x", max_size=60).map(str.encode), step=st.integers(1, 70))
def test_rubbish_is_an_invalid_request(body: bytes, step: int) -> None:
    with pytest.raises(InvalidRequest):
        asyncio.run(read(b"--B\r\n" + body, step))


async def test_parts_that_are_not_read_are_skipped() -> None:
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(encode([("a", None, b"x" * 99), ("b", None, b"y")]))
    stream.feed_eof()
    names = [part.name async for part in FormReader(stream, "B", upload=999, parts=10)]
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the multipart body ends before its closing boundary"),
        (encode([("a", None, b"x")])[:-6], "the multipart body ends before its closing boundary"),
        (b"--Bx\r\n", "the multipart body is malformed before its first part: "),
        (encode([("a", None, b"x")])[:-4] + b"\r\nno colon\r\n", "malformed after part 1: "),
        (encode([("a", None, b"x")])[:-4] + b"\r\n" + b"x" * 17_000, "malformed after part 1: "),
    ],
)
async def test_the_error_says_where_the_body_is_malformed(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await read(body, 70)


async def test_a_part_has_one_header_of_each_name() -> None:
    other = b'\r\ncontent-disposition: form-data; name="b"\r\n\r\n'
    body = encode([("a", None, b"x")]).replace(b"\r\n\r\n", other, 1)
    with pytest.raises(
        InvalidRequest, match="part 1 has two different headers Content-Disposition"
    ):
        await read(body, 70)


async def test_the_upload_is_bounded() -> None:
    body = encode([("a", "f", b"x" * 1000)])
    assert await read(body, 100, upload=len(body))
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        await read(body, 100, upload=len(body) - 1)


@pytest.mark.parametrize(
    ("header", "filename"),
    [
        ('form-data; name="a"; filename="/etc/x"', "/etc/x"),
        ("FORM-DATA ; NAME = a ;  FileName = b ;", "b"),
        ('form-data; name="a"; filename="C:\\dir\\x"', "C:\\dir\\x"),
        ('form-data; name="a"; filename="a\\\\b"', "a\\b"),
        ('form-data; name="a"; filename=""', ""),
        ('form-data; name="a"', None),
    ],
)
def test_a_file_name_is_kept_whole(header: str, filename: str | None) -> None:
    parameters = parse_disposition(header)
    assert parameters["name"] == "a"
    assert parameters.get("filename") == filename
