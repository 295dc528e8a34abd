"""Links lead somewhere, every page is in the navigation, every public name in the API reference."""

import re
from pathlib import Path

import pytest

import gru_jax
from gru_jax import cells, training
from tests.docs.pages import DOCS, LINK, ROOT, all_pages, anchors_of, name_of, nav_pages, prose_of


@pytest.mark.parametrize("page", all_pages(), ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_page_is_in_the_navigation():
    written = {path for path in DOCS.rglob("*.md")}
    assert set(nav_pages()) == written
    assert len(nav_pages()) == len(written)


def test_the_reference_names_all_that_is_public():
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)$", text, re.M))
    named = set(re.findall(r"`(gru_jax[\w.]*)`", text))
    for name in gru_jax.__all__:
        assert f"gru_jax.{name}" in documented | named
    of_cells = set(cells.__all__) - set(gru_jax.__all__)
    assert {f"gru_jax.cells.{name}" for name in of_cells} <= documented
    public = re.findall(r"^from .* as (\w+)$", Path(training.__file__).read_text(), re.M)
    assert {f"gru_jax.training.{name}" for name in public} <= documented
