"""The tables of the documentation show the results in `benchmarks`."""

import json
import re
from pathlib import Path

from experiments.bench.report import best_baseline, geometric_mean, ratios
from tests.docs import support_matrix

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "mosaic_gpu": "gru_jax fused",
    "xla": "gru_jax xla",
    "command buffers": "gru_jax command buffers",
    "flax": "flax.nnx scan",
    "torch": "torch.nn.GRU",
}
"""By a word in a row of the documentation, the variant in `gpu.json`; the last match counts."""


def read(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def tables_of(text):
    """The cells of the Markdown tables in a text, without the line under the header."""
    tables, previous = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                tables.append([])
            if not set(line) <= set("|-: "):
                tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        previous = line
    return tables


def performance():
    return (ROOT / "docs" / "performance.md").read_text()


def test_ratios_to_the_best_baseline():
    (table,) = [table for table in tables_of(performance()) if table[0][0] == "report"]
    assert len(table) == 6
    for name, *cells in table[1:]:
        result = read(re.search(r"benchmarks/(.*)\.md", name).group(1))
        expected = []
        for kind in ("gradient", "forward"):
            found = [row["best baseline"] for row in ratios(result, kind).values()]
            expected += [f"{min(found):.2f} to {max(found):.2f}", f"{geometric_mean(found):.2f}"]
        assert cells == expected, name


def test_times_of_the_gradient():
    by_size = read("cpu")["gradient"]
    (table,) = [table for table in tables_of(performance()) if table[0][1:] == list(by_size)]
    expected = {
        "gru_jax": [times["gru_jax"]["median"] for times in by_size.values()],
        "best other": [best_baseline(times)[1] for times in by_size.values()],
        "matmul only": [times["matmul only"]["median"] for times in by_size.values()],
    }
    shown = {name: list(map(float, cells)) for name, *cells in table[1:]}
    assert shown == {
        name: [float(f"{median:.3g}") for median in medians] for name, medians in expected.items()
    }


def test_times_on_a_gpu():
    rows = {
        (row["implementation"].split(",")[0], row["precision"], row["size"]): row
        for row in read("gpu")["rows"]
    }
    section = performance().split("\n## GPU\n")[1].split("\n## ")[0]
    (_, _, *sizes), *table = tables_of(section)[0]
    assert len(table) == 11
    for variant, precision, *cells in table:
        name = [row_name for word, row_name in VARIANTS.items() if word in variant][-1]
        precision = precision.replace("TF32", "float32 (TF32)")
        for size, cell in zip(sizes, cells, strict=True):
            row = rows[name, precision, size]
            times = map(float, cell.replace("*", "").split(" / "))
            for kind, shown in zip(("forward", "gradient"), times, strict=True):
                assert shown == float(f"{row[kind]['median']:.3g}"), (variant, precision, kind)


def test_the_support_matrix_is_that_of_the_code():
    text = support_matrix.PAGE.read_text()
    assert support_matrix.write(text, support_matrix.tables()) == text


def test_results_of_conversions_are_included():
    page = (ROOT / "docs" / "interop-results.md").read_text()
    for name in ("interop", "fuzz", "file_loads"):
        assert f'--8<-- "benchmarks/{name}.md"' in page
