"""The cache of inputs: fetched once, shared, revalidated, bounded."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.waiting import soon
from unit.storage.origin import CONTENT, Origin, says, sha256, start

from wesemu.errors import InputError
from wesemu.storage.cache import BlobCache, InputCache
from wesemu.storage.download import HttpFetcher
from wesemu.storage.remote import WebFile, web_file


def ignore(done: int, total: int | None) -> None:
    pass


@pytest.fixture
def blobs(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache", limit=1 << 30)


@pytest.fixture
async def cache(blobs: BlobCache, fetcher: HttpFetcher) -> AsyncIterator[InputCache]:
    cache = InputCache(blobs, fetcher)
    yield cache
    await cache.close()


@pytest.fixture
async def other() -> AsyncIterator[Origin]:
    """A second web server."""
    other = Origin()
    server = await start(other)
    yield other
    await server.close()


@pytest.mark.parametrize("validator", ["etag", "modified"])
async def test_a_file_that_has_not_changed_is_not_fetched_again(
    cache: InputCache, origin: Origin, tmp_path: Path, validator: str
) -> None:
    if validator == "modified":
        origin.etag, origin.headers = None, {"Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}
    first = await cache.fetch(WebFile(origin.url), tmp_path / "run1" / "a", ignore)
    if validator == "modified":
        origin.script = [says(304)]
    second = await cache.fetch(WebFile(origin.url), tmp_path / "run2" / "a", ignore)
    assert (first.cached, second.cached) == (False, True)
    conditions = {"If-None-Match", "If-Modified-Since"} & set(origin.requests[1].headers)
    assert conditions == {"If-None-Match" if validator == "etag" else "If-Modified-Since"}
    both = [(tmp_path / run / "a") for run in ("run1", "run2")]
    assert [each.read_bytes() for each in both] == [CONTENT, CONTENT]
    assert len({each.stat().st_ino for each in both}) == 1, "one copy on disk"


async def test_a_file_that_has_changed_is_fetched_and_the_old_run_keeps_its_own(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    await cache.fetch(WebFile(origin.url), tmp_path / "old", ignore)
    origin.content, origin.etag = b"new", '"v2"'
    assert not (await cache.fetch(WebFile(origin.url), tmp_path / "new", ignore)).cached
    assert (tmp_path / "old").read_bytes() == CONTENT
    assert (tmp_path / "new").read_bytes() == b"new"


async def test_a_pinned_file_needs_no_server(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    await cache.fetch(WebFile(origin.url), tmp_path / "a", ignore)
    pinned = web_file(f"http://127.0.0.1:9/mirror/b.fq#sha256={sha256(CONTENT)}")
    assert (await cache.fetch(pinned, tmp_path / "b", ignore)).cached
    assert len(origin.requests) == 1


@asynccontextmanager
async def stalled(
    cache: InputCache, folder: Path, *origins: Origin, wanted: int
) -> AsyncIterator[None]:
    """From each server so many large files are wanted, each in another user's name; four stall
    half way, as the others wait."""
    go_on = asyncio.Event()
    async with asyncio.TaskGroup() as fetches:
        begun = asyncio.Semaphore(0)
        for origin in origins:
            origin.script = [origin.stalls_after(1_500_000, go_on)] * wanted
            for number in range(wanted):
                url = origin.url.replace("://", f"://{number}@") + f"/{number}"
                source = WebFile(url, guarded=False)
                target = folder / origin.url.replace("/", "_") / str(number)
                fetches.create_task(cache.fetch(source, target, lambda *_: begun.release()))
        for _ in range(4 * len(origins)):
            await begun.acquire()
        async with soon():
            try:
                yield
            finally:
                go_on.set()


async def test_a_pinned_file_that_is_there_waits_for_nobody(
    cache: InputCache, origin: Origin, other: Origin, tmp_path: Path
) -> None:
    """However many large files are on their way."""
    await cache.fetch(WebFile(origin.url), tmp_path / "a", ignore)
    pinned = web_file(f"http://127.0.0.1:9/b.fq#sha256={sha256(CONTENT)}")
    async with stalled(cache, tmp_path, origin, other, wanted=5):
        assert (await cache.fetch(pinned, tmp_path / "b", ignore)).cached


async def test_a_server_that_stalls_does_not_keep_others_waiting(
    cache: InputCache, origin: Origin, other: Origin, tmp_path: Path
) -> None:
    """Though more is wanted from it than is fetched at a time."""
    async with stalled(cache, tmp_path, origin, wanted=9):
        assert not (await cache.fetch(WebFile(other.url), tmp_path / "b", ignore)).cached
        assert len(origin.requests) == 4


async def test_two_runs_at_once_fetch_it_once(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    told: list[list[int]] = [[], []]
    works = [
        cache.fetch(
            WebFile(origin.url),
            tmp_path / str(run),
            lambda done, _, run=run: told[run].append(done),
        )
        for run in range(2)
    ]
    await asyncio.gather(*works)
    assert len(origin.requests) == 1
    assert [each[-1] for each in told] == [len(CONTENT)] * 2
    assert min(map(len, told)) > 1, "both are told how it goes"


async def test_who_is_cancelled_leaves_the_other_one_its_file(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()
    origin.script = [origin.stalls_after(1_500_000, go_on)]
    leaver = asyncio.create_task(
        cache.fetch(WebFile(origin.url), tmp_path / "a", lambda *_: begun.set())
    )
    stayer = asyncio.create_task(cache.fetch(WebFile(origin.url), tmp_path / "b", ignore))
    await begun.wait()
    leaver.cancel()
    async with soon():
        await asyncio.wait({leaver})
    go_on.set()
    assert not (await stayer).cached
    assert len(origin.requests) == 1
    assert not (tmp_path / "a").exists()


async def test_the_last_one_to_leave_ends_it_and_the_next_goes_on(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()
    origin.script = [origin.stalls_after(1_500_000, go_on)]
    leaver = asyncio.create_task(
        cache.fetch(WebFile(origin.url), tmp_path / "a", lambda *_: begun.set())
    )
    await begun.wait()
    leaver.cancel()
    await asyncio.wait({leaver})
    fetched = await cache.fetch(WebFile(origin.url), tmp_path / "b", ignore)
    assert fetched.sha256 == sha256(CONTENT)
    assert "Range" in origin.requests[1].headers
    go_on.set()


async def test_a_failure_is_raised_for_all_callers_and_not_cached(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    origin.script = [says(404)]
    works = [cache.fetch(WebFile(origin.url), tmp_path / str(run), ignore) for run in range(2)]
    failures = await asyncio.gather(*works, return_exceptions=True)
    assert [type(each) for each in failures] == [InputError, InputError]
    assert not (await cache.fetch(WebFile(origin.url), tmp_path / "c", ignore)).cached


async def test_a_new_signature_is_the_same_file_and_the_server_is_asked_with_it(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    for signature in ("first", "second"):
        url = f"{origin.url}?part=1&X-Amz-Signature={signature}&Expires=1"
        fetched = await cache.fetch(WebFile(url), tmp_path / signature, ignore)
    assert fetched.cached
    assert origin.requests[1].query["X-Amz-Signature"] == "second"
    other = await cache.fetch(WebFile(f"{origin.url}?part=2"), tmp_path / "other", ignore)
    assert not other.cached


async def test_who_shows_another_signature_is_judged_by_his_own(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    """Also while somebody else fetches the file, and going on from what has arrived."""
    go_on, begun = asyncio.Event(), asyncio.Event()
    origin.script = [origin.stalls_after(1_500_000, go_on), says(403)]
    good, forged = (f"{origin.url}?X-Amz-Signature={name}" for name in ("good", "forged"))
    holder = asyncio.create_task(
        cache.fetch(WebFile(good), tmp_path / "good", lambda *_: begun.set())
    )
    await begun.wait()
    with pytest.raises(InputError, match="403"):
        await cache.fetch(WebFile(forged), tmp_path / "forged", ignore)
    go_on.set()
    assert (await holder).sha256 == sha256(CONTENT)
    assert not (tmp_path / "forged").exists()
    assert "Range" not in origin.requests[1].headers


async def test_nothing_in_the_cache_tells_a_signature(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    origin.script = [origin.breaks_after(1_500_000), *[says(503)] * 4]
    url = f"{origin.url}?Signature=tellnobody"
    with pytest.raises(Exception, match="503") as caught:
        await cache.fetch(WebFile(url), tmp_path / "a", ignore)
    assert "tellnobody" not in f"{caught.value!r} {WebFile(url)!r}"
    await cache.fetch(WebFile(url), tmp_path / "a", ignore)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert not any(b"tellnobody" in path.read_bytes() for path in files)
    assert not any("tellnobody" in str(path) for path in files)


async def test_what_somebody_wrote_to_is_fetched_anew(
    cache: InputCache, origin: Origin, tmp_path: Path
) -> None:
    await cache.fetch(WebFile(origin.url), tmp_path / "a", ignore)
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "a").write_bytes(b"a workflow's own")  # its link is the cache's file
    assert not (await cache.fetch(WebFile(origin.url), tmp_path / "b", ignore)).cached
    assert (tmp_path / "b").read_bytes() == CONTENT


class TestBlobCache:
    """What goes when it is full."""

    async def put(self, cache: InputCache, origin: Origin, name: str, run: Path) -> None:
        origin.content, origin.etag = name.encode() * 1000, f'"{name}"'
        await cache.fetch(WebFile(f"{origin.url}/{name}"), run, ignore)

    def names(self, root: Path) -> set[str]:
        blobs = root.glob("cache/blobs/??/*")
        return {path.read_bytes()[:1].decode() for path in blobs if not path.suffix}

    async def test_the_one_used_longest_ago_goes_first(
        self, fetcher: HttpFetcher, origin: Origin, tmp_path: Path
    ) -> None:
        cache = InputCache(BlobCache(tmp_path / "cache", limit=2500), fetcher)
        for name in ("a", "b"):
            await self.put(cache, origin, name, tmp_path / name)
            (tmp_path / name).unlink()  # the run has ended
        origin.etag = '"a"'
        assert (await cache.fetch(WebFile(f"{origin.url}/a"), tmp_path / "a", ignore)).cached
        (tmp_path / "a").unlink()
        await self.put(cache, origin, "c", tmp_path / "c")
        assert self.names(tmp_path) == {"a", "c"}

    async def test_what_a_run_uses_stays(
        self, fetcher: HttpFetcher, origin: Origin, tmp_path: Path
    ) -> None:
        blobs = BlobCache(tmp_path / "cache", limit=1500)
        cache = InputCache(blobs, fetcher)
        for name in ("a", "b", "c"):
            await self.put(cache, origin, name, tmp_path / name)
        assert self.names(tmp_path) == {"a", "b", "c"}
        (tmp_path / "c").unlink()
        (tmp_path / "b").unlink()
        await asyncio.to_thread(blobs.trim)
        assert self.names(tmp_path) == {"a"}
        assert (tmp_path / "a").read_bytes() == b"a" * 1000

    async def test_a_cache_of_no_size_still_serves(
        self, fetcher: HttpFetcher, origin: Origin, tmp_path: Path
    ) -> None:
        cache = InputCache(BlobCache(tmp_path / "cache", limit=0), fetcher)
        works = [cache.fetch(WebFile(origin.url), tmp_path / str(run), ignore) for run in range(3)]
        await asyncio.gather(*works)
        assert [(tmp_path / str(run)).read_bytes() for run in range(3)] == [CONTENT] * 3

    async def test_using_a_file_does_not_make_it_newer(
        self, cache: InputCache, origin: Origin, tmp_path: Path
    ) -> None:
        await cache.fetch(WebFile(origin.url), tmp_path / "a", ignore)
        before = (tmp_path / "a").stat().st_mtime_ns
        await cache.fetch(WebFile(origin.url), tmp_path / "b", ignore)
        assert (tmp_path / "a").stat().st_mtime_ns == before, "Snakemake would run tasks again"

    async def test_a_new_server_forgets_what_is_gone(
        self, cache: InputCache, blobs: BlobCache, origin: Origin, tmp_path: Path
    ) -> None:
        await cache.fetch(WebFile(origin.url), tmp_path / "a", ignore)
        for blob in tmp_path.glob("cache/blobs/??/*"):
            blob.unlink()
        await asyncio.to_thread(blobs.clean_up)
        assert list(tmp_path.glob("cache/sources/*")) == []
        assert not (await cache.fetch(WebFile(origin.url), tmp_path / "b", ignore)).cached

    async def test_files_that_are_not_its_own_stay(self, blobs: BlobCache, tmp_path: Path) -> None:
        names = ["sources/notes.json", "partial/old.part", "partial/folder/a", "blobs/ab/reads"]
        for path in (tmp_path / "cache" / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine" * 1000)
            os.utime(path, (0, 0))
        os.utime(tmp_path / "cache" / "partial" / "folder", (0, 0))
        await asyncio.to_thread(blobs.clean_up)
        for name in names:
            assert (tmp_path / "cache" / name).is_file()
