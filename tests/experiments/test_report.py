"""The page of a folder of runs: content, self-containedness and corrupted files."""

import html
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from experiments.files import write_json
from experiments.report.captions import CAPTIONS
from experiments.tables import number
from experiments.tasks import adding as task
from tests.experiments.report_page import MADE_WITH, PNG, Page, page_of


def test_every_run_and_baseline_is_on_the_page(make_run):
    metrics = {seed: 0.3 + seed / 8 for seed in range(3)}
    for seed, value in metrics.items():
        make_run(f"runs/sums/s{seed}", test=value, seed=seed)
    text = page_of().text
    for seed, value in metrics.items():
        assert f"s{seed} finished GRU, 4 units {seed} {number(value)} 4 6 12,345 4,321" in text
    assert "mean of 3 seeds GRU, 4 units 0.4250 ± 0.1250" in text
    assert "mean of all sums 0.1875" in text
    assert "RNN, Doe 1999 0.125" in text
    assert "GRU, Roe 2015 0.0625" in text
    assert "Published: Doe 1999, table 7; Roe 2015." in text
    for said in ("0123456789abcdef", "experiments/plots.py", "jax 0.10.98", "platform abacus"):
        assert text.count(said) == 3
    assert text.count(MADE_WITH["command"]) == 3
    assert text.count("length: 5") == 3


@pytest.mark.usefixtures("rendered")
def test_the_page_is_self_contained(make_run):
    make_run("runs/sums/s0")
    document = page_of()
    images = document.all("img")
    # The curves of all runs, of loss and metric, and the run's own.
    assert len(images) == 2 + 1
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert not {tag for tag, _ in document.elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "base",
    }
    for _, attributes in document.elements:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert not re.match(r"\s*(\w+:)?//", attributes.get("href", "") + attributes.get("src", ""))
    assert "url(" not in Path("runs/report.html").read_text()
    assert "@import" not in Path("runs/report.html").read_text()


def test_links_have_targets(no_curves, make_run):
    for path in ("runs/sums/s0", "runs/sums/s1"):
        make_run(path)
    make_run("runs/others/s0", length=7)
    document = page_of()
    targets = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(targets) == len(set(targets)) == 2 + 3
    assert {link["href"] for link in document.all("a")} == {f"#{target}" for target in targets}


def test_adversarial_text_is_escaped(no_curves, make_run):
    adversarial = "<script>alert(1)</script>&amp;'\""
    name = adversarial.replace("/", "")
    run = make_run(f"runs/{name}/s0", published=[], model={"hidden_size": 2})
    (run.plots / f"{name}.txt").write_text(adversarial)
    for path, key in ((run.meta, "command"), (run.summary, "model")):
        write_json(path, {**json.loads(path.read_text()), key: adversarial})
    document = page_of()
    assert not document.all("script")
    assert adversarial in document.text
    assert name in document.text
    assert html.escape("<script>alert(1)") in Path("runs/report.html").read_text()


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere")
def test_a_name_that_is_not_unicode_is_shown_as_bytes(no_curves, make_run):
    make_run(os.fsdecode(b"runs/sums/\xff"))
    assert r"\udcff finished" in page_of().text


def test_an_unfinished_run_is_shown_with_its_step(make_run):
    make_run("runs/sums/s0", status=None, steps=4)
    text = page_of().text
    assert "s0 unfinished GRU, 4 units 0 4 of 6 2" in text
    assert "last logged step 4" in text
    assert "GRU, Roe 2015 0.0625" in text
    assert page_of().all("img")


def test_a_run_without_steps_is_shown(make_run):
    run = make_run("runs/sums/s0", status=None)
    run.metrics.unlink()
    run.meta.unlink()
    document = page_of()
    assert "s0 unfinished GRU, 4 units 0 0 of 6" in document.text
    assert "no step logged" in document.text
    assert not document.all("img")


def test_a_run_that_stopped_early_is_finished(no_curves, make_run):
    make_run("runs/sums/s0", status="early_stopped")
    assert "s0 early stopped GRU" in page_of().text


def test_columns_show_what_differs_between_runs(no_curves, make_run):
    make_run("runs/sums/a", optimizer={"learning_rate": 0.125})
    make_run("runs/sums/b", optimizer={"learning_rate": 0.375}, seed=1)
    text = page_of().text
    assert "run status model seed optimizer.learning_rate test mse" in text
    assert "a finished GRU, 4 units 0 0.125 0.5000" in text
    assert "mean of" not in text.replace("mean of all sums", "")


def test_tasks_in_one_directory_are_two_experiments(no_curves, make_run):
    make_run("runs/a")
    run = make_run("runs/b")
    run.config.write_text("task: digits\nseed: 0\n")
    headings = page_of().text.split("Task ")[1:]
    assert [part.split(",")[0] for part in headings] == ["adding", "digits"]


@pytest.mark.parametrize("file", ["summary", "meta", "metrics", "config"])
@pytest.mark.parametrize(
    "content", ['{"step"\n{}\n', "[1]\n[2]\n", '{"seed": 0}\n{}\n', b"\xff\n[]\n"]
)
def test_corrupted_files_are_named_and_others_are_shown(no_curves, make_run, capsys, file, content):
    make_run("runs/sums/s0")
    run = make_run("runs/sums/s1", test=0.875)
    path = getattr(run, file)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = page_of().text
    error = capsys.readouterr().err
    assert str(path.relative_to(Path.cwd())) in error
    assert "Traceback" not in error
    assert " ".join(error.split()) in text
    assert "s1 corrupted" in text
    assert "s0 finished GRU, 4 units 0 0.5000" in text
    assert ("0.8750" in text) == (file != "summary")


def test_a_run_of_another_version_is_not_corrupted(no_curves, make_run):
    make_run("runs/sums/s0")
    run = make_run("runs/sums/s1", status=None, seed=1)
    values = yaml.safe_load(run.config.read_text())
    values["model"] |= {"forgets": None, "gates": 5}
    del values["model"]["dropout"], values["published"]
    run.config.write_text(yaml.safe_dump(values))
    text = page_of().text
    assert "run status model seed model.dropout model.gates test mse" in text
    assert "s1 unfinished GRU, 4 units 1 5 6 of 6" in text


def test_a_corrupted_plot_is_named(make_run, capsys):
    run = make_run("runs/sums/s0")
    (run.plots / "learning_curves.png").write_text("<svg>")
    document = page_of()
    assert "learning_curves.png is not a PNG file." in capsys.readouterr().err
    assert len(document.all("img")) == 2


def test_runs_of_equal_settings_are_side_by_side(no_curves, make_run):
    for path, changed in (("a/1", {}), ("b/1", {"seed": 1}), ("c/1", {"length": 7})):
        make_run(f"runs/{path}", **changed)
    document = page_of()
    assert len(document.all("section")) == 2
    assert "a/1 finished GRU, 4 units 0" in document.text
    assert "b/1 finished GRU, 4 units 1" in document.text
    assert "mean of 2 seeds" in document.text


def test_plots_have_captions_in_words(make_run):
    run = make_run("runs/sums/s0")
    (run.plots / "my_own.png").write_bytes(PNG)
    alternatives = {image["alt"] for image in page_of().all("img")}
    assert "Training loss over the steps, of one run." in alternatives
    assert "Validation mse over the steps, of one run." in alternatives
    assert "My own" in alternatives
    assert CAPTIONS["learning_curves.png"] in alternatives


def test_every_plot_of_the_tasks_has_a_caption():
    source = Path(task.__file__).parents[1]
    names = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r'directory / "(\w+\.(?:png|txt))"', path.read_text())
    }
    assert len(names) >= 10
    assert names <= CAPTIONS.keys()


def test_cells_name_their_columns_where_rows_are_stacked(no_curves, make_run):
    make_run("runs/sums/s0")
    columns = [cell["data-column"] for cell in page_of().all("td")]
    assert columns[:4] == ["status", "model", "seed", "test mse"]
    assert len(columns) % 8 == 0


def test_a_folder_with_one_run_has_a_page(no_curves, make_run):
    make_run("runs/sums/s0")
    assert "s0 finished" in page_of("runs/sums/s0", out="runs/sums/s0/report.html").text


def test_a_page_does_not_depend_on_an_earlier_one(make_run):
    make_run("runs/sums/s0")
    first, second = page_of(), page_of()
    assert first.elements == second.elements


def test_the_files_of_train_are_on_the_page(adding, write_config, workplace, capsys):
    config = write_config(adding)
    assert main(["train", str(config), "--run-dir", "runs/tiny/a"]) == 0
    assert main(["report", "--out", "page.html"]) == 0
    assert capsys.readouterr().err == ""
    document = Page(Path("page.html").read_text())
    summary = json.loads(Path("runs/tiny/a/summary.json").read_text())
    assert number(summary["test"]["mse"]) in document.text
    assert number(summary["baselines"]["mean of all sums"]["mse"]) in document.text
    assert f"train {config}" in document.text
    # Learning curves, predictions, gates, and the curves of all runs, of loss and metric.
    assert len(document.all("img")) == 3 + 2


def test_a_folder_without_runs_is_rejected(workplace, user_error):
    assert "The folder runs does not exist" in user_error("report")
    (workplace / "empty").mkdir()
    assert "empty holds no runs" in user_error("report", "empty")
    (workplace / "file").touch()
    assert "The folder file is a file" in user_error("report", "file")


def test_a_page_that_cannot_be_written_is_an_error(no_curves, make_run, user_error, workplace):
    make_run("runs/sums/s0")
    (workplace / "directory").mkdir()
    for out in ("none/page.html", "directory", "runs/sums/s0/summary.json/page.html"):
        message = user_error("report", "--out", out)
        assert f"The page {out} cannot be written: " in message
