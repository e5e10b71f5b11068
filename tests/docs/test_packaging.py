"""README and metadata as a package index shows them, and the contents of the package."""

import re
import tomllib
from pathlib import Path

from wesemu import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PYTHONS = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def test_readme_has_no_relative_links_but_its_picture() -> None:
    """An index shows it without the repository's folders, and the picture as its text."""
    links = re.findall(r"\]\(([^)\s]+)\)|<(?:a|img)[^>]+(?:href|src)=\"([^\"]+)\"", README)
    targets = [target for pair in links for target in pair if target]
    assert targets
    relative = [each for each in targets if not each.startswith(("https://", "#"))]
    assert relative == ["docs/images/variants.webp"]


def test_pictures_are_small_and_shown() -> None:
    pages = [README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))]
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 120_000
        assert any(f"images/{picture.name})" in page for page in pages), picture.name


def test_documents_that_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:docs/)?[A-Za-z-]+(?:/README)?\.md)`", README))
    assert "docs/README.md" in named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_document_is_in_the_list() -> None:
    page = (ROOT / "docs" / "README.md").read_text()
    listed = set(re.findall(r"^\| \[[^\]]+\]\(([a-z/-]+\.md)\)", page, re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    assert listed == {path for path in pages if not path.endswith("README.md")}


def test_the_pythons_of_the_classifiers_are_those_of_readme() -> None:
    pythons = [match[1] for match in map(PYTHONS.fullmatch, PROJECT["classifiers"]) if match]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert f"Python {pythons[0]} to {pythons[-1]} on Linux" in README
    minors = [int(version.partition(".")[2]) for version in pythons]
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_every_place_has_the_same_version() -> None:
    label = re.search(r'image\.version="([^"]+)"', (ROOT / "Dockerfile").read_text())
    assert label
    assert PROJECT["version"] == __version__ == label[1]


def test_urls_are_https() -> None:
    assert PROJECT["urls"]
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())


def test_types_are_shipped() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "wesemu" / "py.typed").is_file()
