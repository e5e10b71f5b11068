"""Downloads by HTTP: interruptions, wrong responses, forbidden addresses."""

import asyncio
import base64
import hashlib
import itertools
from pathlib import Path

import pytest
from aiohttp import web
from support.waiting import soon
from unit.storage.conftest import IMPATIENT
from unit.storage.origin import CONTENT, LOOPBACK, Origin, says, sha256, start

from wesemu.errors import InputError, RemoteFault, SystemFault
from wesemu.storage.checksums import find_crc64
from wesemu.storage.download import LEAST_BYTES, HttpFetcher, ReceivedFile, Validators
from wesemu.storage.partial_download import ExpectedFile, PartialFile
from wesemu.storage.remote import WebFile, web_file
from wesemu.util.ssrf import AddressGuard


@pytest.fixture
def partial(tmp_path: Path) -> PartialFile:
    return PartialFile(tmp_path / "partial", "a", find_crc64())


def ignore(done: int, total: int | None) -> None:
    pass


async def fetch(fetcher: HttpFetcher, origin: Origin, partial: PartialFile) -> ReceivedFile:
    received = await fetcher.fetch(WebFile(origin.url), partial, ignore)
    assert received is not None
    assert await asyncio.to_thread(partial.path.read_bytes) == origin.content
    assert (received.size, received.sha256) == (len(origin.content), sha256(origin.content))
    return received


def begun_at(request: web.Request) -> int:
    """Where the rest begins that was asked for; how much arrives of what broke off varies."""
    return int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))


async def test_a_file_arrives_with_its_progress(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    told: list[tuple[int, int | None]] = []
    received = await fetcher.fetch(WebFile(origin.url), partial, lambda *now: told.append(now))
    assert received == ReceivedFile(len(CONTENT), sha256(CONTENT), Validators('"v1"', None))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) > 2


async def test_what_broke_off_is_gone_on_with(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [origin.breaks_after(1_500_000), origin.breaks_after(1_000_000)]
    await fetch(fetcher, origin, partial)
    first, second, third = origin.requests
    assert "Range" not in first.headers
    assert 0 < begun_at(second) <= 1_500_000
    assert begun_at(second) < begun_at(third) <= begun_at(second) + 1_000_000
    assert second.headers["If-Range"] == '"v1"'


async def test_it_is_gone_on_with_by_the_next_server(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, tmp_path: Path
) -> None:
    origin.script = [origin.breaks_after(1_500_000), *[says(503)] * 4]
    with pytest.raises(RemoteFault, match=r"answered 503 Service Unavailable; 4 attempts failed"):
        await fetch(fetcher, origin, partial)
    again = PartialFile(tmp_path / "partial", "a")
    await fetch(fetcher, origin, again)
    assert 0 < begun_at(origin.requests[-1]) <= 1_500_000


async def test_a_line_that_always_breaks_is_borne_while_it_brings_something(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [origin.breaks_after(600_000) for _ in range(len(IMPATIENT) + 2)]
    await fetch(fetcher, origin, partial)
    assert len(origin.requests) == len(IMPATIENT) + 3


async def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    async def changes(request: web.Request) -> web.StreamResponse:
        origin.content, origin.etag = b"new" * 1000, '"v2"'
        return await origin.serve(request)

    origin.script = [origin.breaks_after(1_500_000), changes]
    received = await fetch(fetcher, origin, partial)
    assert received.validators.etag == '"v2"'


async def test_a_rest_of_another_file_is_not_appended(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    lie = says(206, ETag='"v2"', Content_Range=f"bytes 1500000-2999999/{len(CONTENT)}")
    origin.script = [origin.breaks_after(1_500_000), lie]
    await fetch(fetcher, origin, partial)
    assert "Range" not in origin.requests[-1].headers


@pytest.mark.parametrize("etag", [None, '"v1"'])
async def test_only_what_can_be_gone_on_with_is_kept(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, etag: str | None
) -> None:
    origin.etag = etag
    origin.script = [origin.breaks_after(1_500_000), says(404)]
    with pytest.raises(InputError):
        await fetch(fetcher, origin, partial)
    assert partial.path.exists() is (etag is not None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
async def test_a_full_disk_is_reported_at_once(
    fetcher: HttpFetcher, origin: Origin, tmp_path: Path
) -> None:
    class Full(PartialFile):
        def begin(self, whole: ExpectedFile) -> None:
            super().begin(whole)
            self.close()
            self._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115

    with pytest.raises(SystemFault, match="the disk is full; make room") as told:
        await fetch(fetcher, origin, Full(tmp_path / "partial", "a"))
    assert not isinstance(told.value, RemoteFault)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
async def test_without_a_strong_etag_it_begins_anew(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, etag: str | None
) -> None:
    origin.etag = etag
    origin.script = [origin.breaks_after(1_500_000)]
    await fetch(fetcher, origin, partial)
    assert "Range" not in origin.requests[-1].headers


async def test_a_server_without_ranges_begins_anew(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    async def whole(request: web.Request) -> web.StreamResponse:
        return web.Response(body=origin.content, headers={"ETag": '"v1"'})

    origin.script = [origin.breaks_after(1_500_000), whole]
    await fetch(fetcher, origin, partial)


async def test_a_busy_server_is_asked_again(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [says(503, Retry_After="0"), says(429)]
    await fetch(fetcher, origin, partial)
    assert len(origin.requests) == 3


async def test_a_server_that_is_down_is_reported(partial: PartialFile, reserved_port: int) -> None:
    fetcher = HttpFetcher(LOOPBACK, delays=(0.0,))
    url = f"http://127.0.0.1:{reserved_port}/a.fq?Signature=secret"
    with pytest.raises(RemoteFault, match="cannot be reached") as caught:
        await fetcher.fetch(WebFile(url), partial, ignore)
    assert "secret" not in caught.value.message
    await fetcher.close()


@pytest.mark.parametrize(
    ("status", "advice"),
    [(404, "check the address"), (403, "sign it again"), (401, "signed"), (418, "plain GET")],
)
async def test_a_refusal_is_the_requests_fault_and_is_not_repeated(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, status: int, advice: str
) -> None:
    origin.script = [says(status)]
    with pytest.raises(InputError, match=rf"a_1\.fq answered {status}.*{advice}") as caught:
        await fetch(fetcher, origin, partial)
    assert caught.value.file == origin.url
    assert len(origin.requests) == 1


async def test_an_answer_to_another_question_is_refused(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [says(304)]
    with pytest.raises(InputError, match="answered 304"):
        await fetch(fetcher, origin, partial)
    origin.script = [says(206, Content_Range="bytes 0-9/10")]
    with pytest.raises(InputError, match="answered 206"):
        await fetch(fetcher, origin, partial)


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


@pytest.mark.parametrize(
    "header",
    [
        ("Content-MD5", _md5(CONTENT)),
        ("x-goog-hash", f"crc32c=AAAAAA==,md5={_md5(CONTENT)}"),
        ("Repr-Digest", f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"),
        ("x-oss-hash-crc64ecma", str((find_crc64() or (lambda *_: 0))(CONTENT, 0))),
    ],
)
async def test_a_checksum_of_the_response_is_checked(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, header: tuple[str, str]
) -> None:
    name, value = header
    origin.headers = {name: value}
    await fetch(fetcher, origin, partial)
    origin.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=r"as its server says; it is damaged there"):
        await fetch(fetcher, origin, partial)
    assert len(origin.requests) == 3  # one more attempt: it may have been the line


async def test_a_damage_on_the_way_is_mended_by_another_attempt(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.headers = {"Content-MD5": _md5(CONTENT)}

    async def damaged(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"?" + CONTENT[1:], headers=origin.headers)

    origin.script = [damaged]
    await fetch(fetcher, origin, partial)


async def test_a_pinned_checksum_is_checked(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    source = web_file(f"{origin.url}#sha256={sha256(CONTENT).upper()}")
    assert await fetcher.fetch(source, partial, ignore) is not None
    wrong = web_file(f"{origin.url}#sha256={sha256(b'other')}")
    with pytest.raises(InputError, match=r"not [0-9a-f]{64} as the request says; correct"):
        await fetcher.fetch(wrong, partial, ignore)
    assert len(origin.requests) == 2


async def test_a_pinned_checksum_holds_for_what_is_gone_on_with(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    good = origin.content
    origin.content = b"?" * 1_500_000 + good[1_500_000:]
    origin.script = [origin.breaks_after(1_500_000), *[says(503)] * 4]
    source = web_file(f"{origin.url}#sha256={sha256(good)}")
    with pytest.raises(RemoteFault):
        await fetcher.fetch(source, partial, ignore)
    origin.content = good  # the same ETag: what has arrived is of another file after all
    assert await fetcher.fetch(source, partial, ignore) is not None
    assert await asyncio.to_thread(partial.path.read_bytes) == good


async def test_a_redirect_is_followed(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [says(302, Location="/elsewhere?a=%2F")]
    await fetch(fetcher, origin, partial)
    assert origin.requests[-1].raw_path == "/elsewhere?a=%2F"


async def test_a_redirect_to_a_private_address_is_refused(partial: PartialFile) -> None:
    origin = Origin(script=[says(302, Location="http://10.0.0.1/secret?token=x")])
    server = await start(origin)
    fetcher = HttpFetcher(LOOPBACK)
    with pytest.raises(InputError, match=r"redirected to http://10\.0\.0\.1/secret\?…") as caught:
        await fetcher.fetch(WebFile(origin.url), partial, ignore)
    assert "inputs.networks" in caught.value.message
    await fetcher.close()
    await server.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/a", "http://localhost:{port}/a"])
async def test_a_private_address_is_refused(partial: PartialFile, url: str) -> None:
    origin = Origin()
    server = await start(origin)
    fetcher = HttpFetcher(AddressGuard(setting="inputs.networks"))
    with pytest.raises(InputError, match=r"not a public address; the setting inputs\.networks"):
        await fetcher.fetch(WebFile(url.format(port=server.port)), partial, ignore)
    assert origin.requests == []
    await fetcher.close()
    await server.close()


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://["])
async def test_a_redirect_to_something_else_is_refused(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, location: str
) -> None:
    origin.script = [says(302, Location=location)]
    with pytest.raises(InputError, match="which is not followed"):
        await fetch(fetcher, origin, partial)


async def test_redirects_in_a_circle_end(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [says(301, Location="/again")] * 6
    with pytest.raises(InputError, match="more than 5 times"):
        await fetch(fetcher, origin, partial)


async def test_a_file_that_is_too_large_is_refused_before_it_comes(
    origin: Origin, partial: PartialFile
) -> None:
    fetcher = HttpFetcher(LOOPBACK, largest=1000)
    with pytest.raises(InputError, match=r"inputs\.largest_gib"):
        await fetcher.fetch(WebFile(origin.url), partial, ignore)
    assert not partial.path.exists()
    await fetcher.close()


async def test_a_file_of_unknown_size_is_cut_at_the_limit(
    origin: Origin, partial: PartialFile
) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT)
        return response

    origin.script = [chunked, chunked]
    fetcher = HttpFetcher(LOOPBACK, largest=1_200_000)
    with pytest.raises(InputError, match="may have 1200000"):
        await fetcher.fetch(WebFile(origin.url), partial, ignore)
    await fetcher.close()
    fetcher = HttpFetcher(LOOPBACK)
    await fetch(fetcher, origin, partial)
    await fetcher.close()


async def test_a_compressed_file_stays_as_it_is(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.headers = {"Content-Encoding": "gzip"}
    origin.content = b"\x1f\x8b not what gzip would read"
    await fetch(fetcher, origin, partial)
    assert origin.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_silent_server_is_left(origin: Origin, partial: PartialFile) -> None:
    forever = asyncio.Event()
    origin.script = [origin.stalls_after(1_500_000, forever)]
    fetcher = HttpFetcher(LOOPBACK, delays=(0.0,), stall_seconds=0.2)
    await fetch(fetcher, origin, partial)
    assert begun_at(origin.requests[-1]) > 0
    forever.set()
    await fetcher.close()


class Trickle:
    """A server that sends a piece of 50 bytes, then another; and the clock of the fetcher, by
    which a minute passes whenever it is looked at. A piece is sent once the one before it came."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._minutes = itertools.count(step=60.0)
        self._looks = asyncio.Semaphore(0)

    def __call__(self) -> float:
        self._looks.release()
        return next(self._minutes)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        start, content = self._origin.start_of(request), self._origin.content
        headers = {"ETag": self._origin.etag or ""}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(content) - start
        await response.prepare(request)
        for piece in range(2):
            await self._looks.acquire()
            await response.write(content[start + 50 * piece :][:50])
        await asyncio.Event().wait()  # until the fetcher has gone
        return response


async def test_a_bad_minute_is_borne(origin: Origin, partial: PartialFile) -> None:
    trickle = Trickle(origin)
    origin.script = [trickle.answer]
    fetcher = HttpFetcher(LOOPBACK, delays=IMPATIENT, now=trickle)
    await fetch(fetcher, origin, partial)
    assert [begun_at(request) for request in origin.requests[1:]] == [100]
    await fetcher.close()


async def test_a_server_that_trickles_is_left_and_what_came_is_kept(
    origin: Origin, partial: PartialFile
) -> None:
    """After as many attempts as one that is dead."""
    trickle = Trickle(origin)
    origin.script = [trickle.answer] * (len(IMPATIENT) + 2)
    fetcher = HttpFetcher(LOOPBACK, delays=IMPATIENT, now=trickle)
    told = "sends too slowly: 50 bytes in 60 seconds; 4 attempts failed"
    with pytest.raises(RemoteFault, match=told) as left:
        await fetch(fetcher, origin, partial)
    assert left.value.file == origin.url
    assert len(origin.requests) == len(IMPATIENT) + 1
    assert await asyncio.to_thread(partial.resume_offset) == 100 * len(origin.requests)
    await fetcher.close()


async def test_a_file_that_arrives_whole_after_a_bad_minute_is_taken(
    origin: Origin, partial: PartialFile
) -> None:
    origin.content = b"@r\nACGT\n+\nIIII\n"
    clock = itertools.chain([0.0], itertools.repeat(61.0))
    fetcher = HttpFetcher(LOOPBACK, delays=(), now=lambda: next(clock))
    await fetch(fetcher, origin, partial)
    assert len(origin.requests) == 1
    await fetcher.close()


async def test_attempts_that_each_bring_less_than_a_minute_s_least_add_up(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    """However much they have brought together: a trickle would never end."""
    origin.script = [origin.breaks_after(LEAST_BYTES - 1) for _ in range(len(IMPATIENT) + 2)]
    with pytest.raises(RemoteFault, match="4 attempts failed"):
        await fetch(fetcher, origin, partial)


async def test_a_line_that_always_breaks_and_brings_next_to_nothing_is_left(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile
) -> None:
    origin.script = [origin.breaks_after(1000) for _ in range(len(IMPATIENT) + 2)]
    with pytest.raises(RemoteFault, match="4 attempts failed"):
        await fetch(fetcher, origin, partial)
    assert len(origin.requests) == len(IMPATIENT) + 1


async def test_a_cancel_ends_it_at_once_and_keeps_what_came(
    fetcher: HttpFetcher, origin: Origin, partial: PartialFile, tmp_path: Path
) -> None:
    forever, begun = asyncio.Event(), asyncio.Event()
    origin.script = [origin.stalls_after(2_500_000, forever)]
    task = asyncio.create_task(fetcher.fetch(WebFile(origin.url), partial, lambda *_: begun.set()))
    await begun.wait()
    task.cancel()
    async with soon():
        await asyncio.wait({task})
    assert task.cancelled()
    forever.set()
    await fetch(fetcher, origin, PartialFile(tmp_path / "partial", "a"))
    assert "Range" in origin.requests[-1].headers


def test_a_thread_of_a_cancelled_request_opens_the_file_no_more(partial: PartialFile) -> None:
    partial.abandon()
    partial.begin(ExpectedFile())
    partial.write(b"late")
    assert not partial.path.exists()
