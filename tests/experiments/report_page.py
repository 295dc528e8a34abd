"""A page of `report`, parsed, and what the runs on it were made with."""

from html.parser import HTMLParser
from pathlib import Path

from experiments.cli import main

MADE_WITH = {
    "command": "python -m experiments train configs/sums.yaml --seed 7",
    "git_revision": "0123456789abcdef",
    "git_changed_files": [" M experiments/plots.py"],
    "versions": {"python": "3.11.99", "jax": "0.10.98"},
    "device": {"platform": "abacus", "cpu_cores": 3},
}
PNG = b"\x89PNG\r\n\x1a\n, and so on"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Parses a page; its elements must be properly nested."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.said = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*arguments, out="runs/report.html"):
    assert main(["report", *map(str, arguments)]) == 0
    return Page(Path(out).read_text())
