"""The table of experiments, in the documentation and README, shows the committed results."""

import json
import re

import pytest

from experiments.commands.compare.significance import (
    THRESHOLD,
    compare_cells,
    significantly_best,
)
from experiments.runs.config_loading import load_config
from experiments.task import HIGHER_IS_BETTER
from experiments.tasks import load_task
from tests.docs.pages import DOCS, ROOT

METRICS = {
    "squared error": "mse",
    "cross-entropy": "cross_entropy",
    "accuracy": "accuracy",
    "nats per frame": "nll_per_frame",
    "bits": "bits_per_character",
    "BLEU": "bleu",
    "return": "return",
}
CELLS = ("gru", "lstm", "rnn")
VARIANTS = ("no memory", "shifted flags")


def results():
    return sorted((ROOT / "experiments" / "results").glob("*/compare.json"))


def row_of(path):
    """The cells of a result's row in the table of experiments, without the first two."""
    text = (DOCS / "experiments.md").read_text()
    row = re.search(rf"^\| `{path.parent.name}`.*\|$", text, re.MULTILINE)
    assert row is not None
    return [cell.strip() for cell in row[0].split("|")[2:-1]]


@pytest.mark.parametrize("path", results(), ids=lambda path: path.parent.name)
def test_table_of_experiments(path):
    metric, *means, significant, _ = row_of(path)
    result = json.loads(path.read_text())
    models = {model["cell"]: model for model in result["models"]}
    columns = CELLS if models.keys() <= set(CELLS) else (*CELLS, *VARIANTS)
    shown = dict(zip(columns, means, strict=True))
    assert models.keys() == {cell for cell, text in shown.items() if text}
    for cell, model in models.items():
        of_metric = model["test"][METRICS[metric]]
        mean, _, deviation = shown[cell].replace("*", "").partition(" ± ")
        assert is_rounded(mean + " %" * ("%" in deviation), of_metric["mean"])
        assert is_rounded(deviation, of_metric["deviation"])
        is_best = significantly_best(result["models"], METRICS[metric]) == cell
        assert shown[cell].startswith("**") == is_best
    assert significant == differences(result["models"], METRICS[metric])


def differences(models, metric):
    """The significant differences between pairs of cells, the better one first."""
    if len(models) < 2:
        return ""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    pairs = [
        " > ".join(
            map(str.upper, comparison.cells[:: 1 if sign * comparison.difference > 0 else -1])
        )
        for comparison in compare_cells(models, metric)
        if comparison.p_holm is not None and comparison.p_holm < THRESHOLD
    ]
    return ", ".join(pairs) or "none"


@pytest.mark.parametrize("path", results(), ids=lambda path: path.parent.name)
def test_results_of_another_protocol_are_marked(path):
    text = (DOCS / "experiments.md").read_text()
    is_marked = f"| `{path.parent.name}` †: " in text
    # The settings of a comparison with further options are those of the config's own search.
    search = path.parents[1] / json.loads(path.read_text())["name"] / "search.json"
    assert is_marked == (not search.exists())


def test_the_readme_has_rows_of_this_protocol():
    """Which :func:`test_table_of_experiments` compares with the results."""
    readme, experiments = (
        set(re.findall(r"^\| `[\w-]+`: .*\|$", (ROOT / path).read_text(), re.MULTILINE))
        for path in ("README.md", "docs/experiments.md")
    )
    assert readme
    assert readme <= experiments


BASELINES = [
    ("digits", "nearest neighbour", "accuracy", "nearest neighbour {:.1%}"),
    ("digits", "SVC, Gaussian kernel", "accuracy", "SVC {:.1%}"),
    ("digits", "logistic regression", "accuracy", "logistic regression {:.1%}"),
    ("spoken-digits", "SVC, Gaussian kernel", "accuracy", "SVC {:.1%}"),
    ("spoken-digits", "nearest neighbour", "accuracy", "nearest neighbour {:.1%}"),
    ("spoken-digits", "logistic regression", "accuracy", "logistic regression {:.1%}"),
    ("etth1-24", "DLinear, 96 hours", "mse", "DLinear of 96 hours {:.4f}"),
    ("etth1-24", "NLinear, 96 hours", "mse", "NLinear of 96 hours {:.4f}"),
    ("etth1-24", "seasonal naive (24 hours)", "mse", "seasonal naive {:.4f}"),
    ("etth1-96", "DLinear, 336 hours", "mse", "DLinear of 336 hours {:.3f}"),
    ("etth1-96", "DLinear, 96 hours", "mse", "of 96 hours {:.3f}"),
    ("jsb", "logistic regression", "nll_per_frame", "logistic regression {:.2f}"),
    ("nottingham", "logistic regression", "nll_per_frame", "logistic regression {:.2f}"),
    ("shakespeare", "7-gram, Kneser-Ney", "bits_per_character", "7-gram (Kneser-Ney) {:.3f}"),
    ("shakespeare", "unigram", "bits_per_character", "unigram {:.3f}"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, *_ in BASELINES}))
def test_baselines_of_the_table(name, published_data):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    measured = load_task(config.task).build(config, published_data).evaluate_baselines()
    shown = row_of(ROOT / "experiments" / "results" / name / "compare.json")[-1].replace(" %", "%")
    for of_config, baseline, metric, text in BASELINES:
        if of_config == name:
            assert text.format(measured[baseline][metric]) in shown


def test_baselines_of_the_speakers():
    """Means over the speakers, which the result has."""
    path = ROOT / "experiments" / "results" / "spoken-digits-speakers" / "compare.json"
    baselines = json.loads(path.read_text())["baselines"]
    shown = row_of(path)[-1].replace(" %", "%")
    for of_config, baseline, metric, text in BASELINES:
        if of_config == "spoken-digits":
            assert text.format(baselines[baseline][metric]) in shown


def is_rounded(text, value):
    """Whether a printed number is this value, to its number of digits."""
    number, digits, power = re.search(r"(-?\d+\.(\d+))(?:e(-?\d+))?", text).groups()
    power = int(power or 0) + (-2 if "%" in text else 0)
    return abs(float(number) * 10**power - value) <= 0.501 * 10.0 ** (power - len(digits))
