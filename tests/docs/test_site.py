"""The documentation site: links to files outside docs/, and the search for foreign hosts.

CI builds the site itself in the stage extras: `mkdocs build --strict` with these hooks.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/a.js">',
        "<script async src='//cdn.example/a.js'>",
        "<script\n defer\n src=https://cdn.example/a.js>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect">',
        '<img alt="" src="http://images.example/a.png">',
        '<source srcset="https://images.example/a.png 2x">',
        '@import "https://fonts.example/css";',
        "src: url(//fonts.example/a.woff2)",
        "background: url( 'https://images.example/a.svg' )",
    ],
)
def test_what_a_page_loads_from_another_host_is_found(hooks: ModuleType, text: str) -> None:
    assert hooks.foreign(text)


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://www.example.org">a link to follow</a>',
        '<script src="../assets/a.js">var url = "https://example.org"</script>',
        '<link rel="stylesheet" href="assets/a.css">',
        '<img src="data:image/svg+xml;base64,AA==">',
        "<code>https://example.org</code>",
        "url(data:image/png;base64,//AA)",
    ],
)
def test_other_addresses_are_none_of_them(hooks: ModuleType, text: str) -> None:
    assert hooks.foreign(text) == []


@pytest.mark.parametrize(
    ("page", "link", "changed"),
    [
        ("README.md", "guides/pytest.md", "guides/pytest.md"),
        ("README.md", "../CONTRIBUTING.md", "repository/CONTRIBUTING.md"),
        ("guides/pytest.md", "../pytest.md", "../pytest.md"),
        ("guides/github-actions.md", "../../action.yml", "../repository/action.yml"),
        ("repository/CONTRIBUTING.md", "docs/architecture.md", "../architecture.md"),
        ("repository/benchmarks/README.md", "../docs/benchmarks.md", "../../benchmarks.md"),
    ],
)
def test_links_lead_to_the_same_file_on_the_site(
    hooks: ModuleType, page: str, link: str, changed: str
) -> None:
    assert hooks.site_link(link, page) == changed


def test_the_files_outside_docs_exist(hooks: ModuleType) -> None:
    assert [path for path in hooks.OUTSIDE if not (ROOT / path).is_file()] == []


def test_every_page_is_in_the_navigation(hooks: ModuleType) -> None:
    navigation = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    outside = {f"repository/{path}" for path in hooks.OUTSIDE if path.endswith(".md")}
    assert set(navigation) == pages | outside
