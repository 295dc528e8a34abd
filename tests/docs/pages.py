"""The pages of the documentation, their code blocks and links."""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(?:(\w+)|\{ \.(\w+) \})?\n(.*?)^\1```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced code block: its language, its code, and the line at which the code begins."""

    language: str
    code: str
    line: int


def nav_pages() -> list[Path]:
    """The pages of the site, in the order of its navigation."""

    def flatten(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        children = entry if isinstance(entry, list) else list(entry.values())
        return [page for child in children for page in flatten(child)]

    config = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.SafeLoader)
    return [DOCS / page for page in flatten(config["nav"])]


def all_pages() -> list[Path]:
    """README, CONTRIBUTING, CHANGELOG and the pages of the site."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*top, *nav_pages()]


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced code blocks of a page."""
    text = page.read_text()
    return [
        Block(match[2] or match[3] or "", match[4], text.count("\n", 0, match.start(4)))
        for match in FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text())


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", prose_of(page), re.M)
    slugs = set()
    for heading in headings:
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\s-]", "", text).strip().lower()
        slugs.add(re.sub(r"[-\s]+", "-", slug))
    return slugs


def own_task_files() -> dict[str, str]:
    """The files that the page on tasks of one's own asks for, by their paths."""
    module, config, *_ = (
        block.code
        for block in blocks_of(DOCS / "guide" / "own-task.md")
        if block.language in ("python", "text")
    )
    return {"my_package/my_task.py": module, "my.yaml": config}
