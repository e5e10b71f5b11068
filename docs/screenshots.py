"""Takes the screenshots of README.md and docs/ from the demo: `python docs/screenshots.py`.

With `--all DIR`, takes every page at two widths, light and dark, into a folder to look at. With
`--data DIR`, uses the data directory of an earlier `wesemu demo --data DIR`. Needs playwright and
chromium.
"""

import argparse
import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from playwright.async_api import Browser, Page, async_playwright

from wesemu.demo.run import run_demo, server_settings, serving

IMAGES = Path(__file__).with_name("images")
QUALITY = 82
LARGEST = 120_000
"""Bytes of an image in the repository."""

SLOWEST_MS = 120_000

WIDE, NARROW = 1440, 390


def pages(wgs: str, mapping: str, locus: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each page. The arguments are ids of two runs, and a place."""
    yield "runs", "/ui/"
    for part in ("timeline", "graph", "logs", "results", "request", "rerun"):
        yield part, f"/ui/runs/{wgs}/{part}"
    yield "run", f"/ui/runs/{wgs}"
    yield "variants", f"/ui/runs/{wgs}/variants?locus={locus}"
    yield "compare", f"/ui/compare?a={wgs}&b={mapping}"
    yield "new", "/ui/new?pipeline=wgs"
    yield "own", "/ui/new?pipeline="
    yield "buckets", "/ui/buckets"
    yield "objects", "/ui/buckets/demo"
    yield "preview", "/ui/buckets/demo/preview?key=reads_1.fq.gz"
    yield "node", "/ui/node"
    yield "storage", "/ui/node/storage"
    yield "emulator", "/ui/emulator"
    yield "api", "/ui/api"
    yield "missing", "/ui/nothing"


COMMITTED = ("runs", "variants", "timeline")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="data directory of an earlier demo")
    parser.add_argument("--all", type=Path, metavar="DIR", help="folder for all pages")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="with --all: these pages")
    arguments = parser.parse_args()
    data = arguments.data or Path(tempfile.mkdtemp(prefix="wesemu-screenshots-"))
    try:
        if arguments.data is None:
            await run_demo(data, lambda *_, **__: None)
        async with serving(data, server_settings(None)) as server, async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            await take(browser, server, arguments.all, arguments.only)
            await browser.close()
    finally:
        if arguments.data is None:
            shutil.rmtree(data)


async def take(browser: Browser, server: str, folder: Path | None, only: list[str] | None) -> None:
    runs = await asyncio.to_thread(_json, f"{server}/ui/index.json")
    ids = {run["workflow"]: run["id"] for run in runs["runs"]}
    calls = await asyncio.to_thread(_json, f"{server}/ui/runs/{ids['wgs']}/variants.json")
    first = next(call for call in calls["calls"] if call["kind"] == "snp")
    locus = f"{first['contig']}:{max(1, first['position'] - 40)}-{first['position'] + 40}"
    known = dict(pages(ids["wgs"], ids["mapping"], locus))
    if folder is None:
        for name in COMMITTED:
            await _take(browser, server + known[name], IMAGES / f"{name}.webp", 1280, "light")
        return
    for scheme in ("light", "dark"):
        for width in (WIDE, NARROW):
            for name in only or known:
                file = folder / f"{name}-{width}-{scheme}.png"
                await _take(browser, server + known[name], file, width, scheme)


async def _take(browser: Browser, url: str, file: Path, width: int, scheme: str) -> None:
    """Save a page, the committed ones as WebP and as high as the window."""
    context = await browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = await context.new_page()
    await page.goto(url, timeout=SLOWEST_MS)
    await _viewer(page)
    if file.suffix == ".webp":
        session = await context.new_cdp_session(page)
        shot = await session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
        image = base64.b64decode(shot["data"])
        if len(image) > LARGEST:
            raise SystemExit(f"{file} has {len(image)} bytes; the most is {LARGEST}")
        await asyncio.to_thread(file.write_bytes, image)
    else:
        await page.screenshot(path=file, full_page=True)
    await context.close()


async def _viewer(page: Page) -> None:
    """Wait until the viewer, if the page has one, shows the reads."""
    if await page.locator("#viewer").count():
        await page.locator("#viewer[data-ready=true]").wait_for(timeout=SLOWEST_MS)
        await page.wait_for_load_state("networkidle")


def _json(url: str) -> dict[str, list[dict[str, str | int]]]:
    with urlopen(url, timeout=60) as answer:
        content: dict[str, list[dict[str, str | int]]] = json.load(answer)
    return content


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    asyncio.run(main())
