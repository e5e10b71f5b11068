"""Hooks of mkdocs: pages from outside docs/, anchors as on GitHub, and no foreign hosts.

Links of the sources name files of the repository, so they work on GitHub and in a checkout. The
site has the files of OUTSIDE below `repository/`, and `on_page_markdown` changes the links.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "THREAT_MODEL.md",
    "action.yml",
    "benchmarks/README.md",
    "pipelines/mapping/workflow/schemas/summary.schema.yaml",
    "pipelines/wgs/config/README.md",
)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
# What a browser fetches by itself when it shows a page, from another host.
FOREIGN = re.compile(
    r"<(?:audio|embed|iframe|img|input|link|script|source|track|video)\b[^>]*?"
    r"\s(?:src|srcset|href|data)=[\"']?((?:https?:)?//[^\s\"'>]+)"
    r"|(?:@import\s+|url\(\s*)[\"']?((?:https?:)?//[^\s\"')]+)",
    re.IGNORECASE,
)


def foreign(text: str) -> list[str]:
    """Return the addresses of other hosts that a page or a stylesheet loads."""
    return [page or style for page, style in FOREIGN.findall(text)]


def site_link(link: str, page: str) -> str:
    """Return a link of a page of the site. Both the link and the page are those of the sources."""
    folder = posixpath.dirname(page)
    inside = page.removeprefix("repository/")
    source = posixpath.dirname(inside) if inside != page else posixpath.join("docs", folder)
    target = posixpath.normpath(posixpath.join(source, link))
    is_page = target.startswith("docs/")
    target = target.removeprefix("docs/") if is_page else f"repository/{target}"
    return posixpath.relpath(target, folder or ".")


def on_config(config: Any) -> Any:
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in OUTSIDE:
        content = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"repository/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    uri = page.file.src_uri
    return LINK.sub(lambda link: site_link(link[1], uri), markdown)


def on_post_build(config: Any) -> None:
    from mkdocs.exceptions import PluginError

    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in {".html", ".css"} and (loaded := foreign(path.read_text("utf-8"))):
            raise PluginError(f"{path.relative_to(config.site_dir)} loads {', '.join(loaded)}")
