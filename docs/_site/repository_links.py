"""MkDocs hook: pages may link to files of the repository that lie outside ``docs``.

A link is written as it is right in the repository, ``../benchmarks/cpu.md`` for example. The build
adds each file that is linked so under ``repository/`` and rewrites the link.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PREFIX = "repository"
LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the linked files, and those that they link to."""
    pages = [file.src_uri for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for target in _targets(page, (ROOT / _repository_path(page)).read_text()):
            uri = _site_uri(target)
            if uri.startswith(PREFIX) and files.get_file_from_path(uri) is None:
                path = str(ROOT / target)
                files.append(File.generated(config, uri, abs_src_path=path))
                if uri.endswith(".md"):
                    pages.append(uri)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites the links that leave ``docs``, or come from a file outside of it."""
    here = page.file.src_uri

    def rewrite(link: re.Match[str]) -> str:
        target = _resolve(here, link[2])
        if target is None:
            return link[0]
        uri = posixpath.relpath(_site_uri(target), posixpath.dirname(here) or ".")
        return f"{link[1]}{uri}{link[3]}"

    if here.startswith(PREFIX) and not markdown.startswith("# "):
        markdown = f"# {_repository_path(here)}\n\n{markdown}"
    return LINK.sub(rewrite, markdown)


def _targets(page: str, markdown: str) -> list[str]:
    found = (_resolve(page, link[2]) for link in LINK.finditer(markdown))
    return [target for target in found if target is not None]


def _resolve(page: str, link: str) -> str | None:
    """The path in the repository of the file that a page links to; None for other links."""
    if "://" in link or link.startswith("mailto:"):
        return None
    here = posixpath.dirname(_repository_path(page))
    path = posixpath.normpath(posixpath.join(here, link))
    return path if (ROOT / path).is_file() else None


def _repository_path(uri: str) -> str:
    return uri.removeprefix(f"{PREFIX}/") if uri.startswith(PREFIX) else f"docs/{uri}"


def _site_uri(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{PREFIX}/{path}"
