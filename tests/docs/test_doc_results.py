"""Values that README and documentation quote are those of the reports in `benchmarks`."""

import dataclasses
import json
import math
import re
from importlib import import_module
from operator import attrgetter

from experiments.bench.gpu.roofline import DEVICES
from gru_jax._unroll.fused.tpu.tiling import TPU_SPECS, max_hidden_size
from tests.docs.pages import DOCS, ROOT

BENCHMARKS = ROOT / "benchmarks"
CPU, SIZES, AVX2, JAX12, JAX12_SIZES = "cpu", "sizes", "avx2", "jax-0.12", "jax-0.12-sizes"


def report(name):
    return json.loads((BENCHMARKS / f"{name}.json").read_text())


def is_ours(name):
    return name.startswith("gru_jax")


def is_bound(name):
    """Whether these are the times of the matmuls only."""
    return name == "matmul only"


def best_other(times, *, only_jax=False):
    """The least median of another library's, of those in JAX only or of all."""
    others = {
        name: spread["median"]
        for name, spread in times.items()
        if not is_ours(name) and not is_bound(name)
    }
    if only_jax:
        others = {name: others[name] for name in others.keys() - {"torch", "onnxruntime"}}
    return min(others.values())


def ratios(name, kind, *, only_jax=False):
    """By shape, how many times as long the best other takes."""
    return {
        shape: best_other(times, only_jax=only_jax) / times["gru_jax"]["median"]
        for shape, times in report(name)[kind].items()
    }


def span(values, digits=2):
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def mean(values):
    values = list(values)
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}"


def bound(times):
    return next(spread["median"] for name, spread in times.items() if is_bound(name))


def text_of(path):
    """A page with each run of white space as one space."""
    return re.sub(r"\s+", " ", (ROOT / path).read_text())


def rows_of(path, heading):
    """The cells of the first table after a heading."""
    section = (ROOT / path).read_text().split(heading, 1)[1]
    table = re.search(r"(^\|.*\|$\n)+", section, re.M)[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def summary(name):
    gradient, forward = (ratios(name, kind).values() for kind in ("gradient", "forward"))
    return [span(gradient), mean(gradient), span(forward), mean(forward)]


def test_summary_of_the_readme():
    rows = rows_of("README.md", "## Performance")[2:]
    for name, row in zip((CPU, JAX12, AVX2), rows, strict=True):
        gradient, gradient_mean, forward, forward_mean = summary(name)
        assert row[1:] == [f"{gradient} ({gradient_mean})", f"{forward} ({forward_mean})"]


def test_summary_of_the_gpu():
    ours_over_next = []
    rows = gpu_rows()
    for shape in ("64,512,256,256", "64,1024,512,512"):
        for kind in ("forward", "gradient"):
            medians = {
                key: row[kind]["median"]
                for key, row in rows.items()
                if key[2] == shape and kind in row
            }
            fused = medians.pop(("gru_jax fused", "bfloat16", shape))
            assert min(medians, key=medians.__getitem__)[0] == "gru_jax xla"
            ours_over_next.append(min(medians.values()) / fused)
    claim = f"1/{max(ours_over_next):.0f} to 1/{min(ours_over_next):.1f} of the time of the next"
    assert claim in text_of("README.md")
    assert claim in text_of("docs/performance.md")


def gpu_rows():
    return {
        (row["implementation"].split(",")[0], row["precision"], row["size"]): row
        for row in report("gpu")["rows"]
    }


def test_what_is_said_of_checks_on_a_gpu():
    outcomes = report("gpu-check")["checks"]
    passed = [check for check in outcomes if check["outcome"] == "passed"]
    unfinished = [check for check in outcomes if check["outcome"] != "passed"]
    assert all("sanitizer" in check["check"] for check in unfinished)
    seconds = [round(check["seconds"]) for check in unfinished]
    kernels, readme = text_of("docs/kernels.md"), text_of("README.md")
    for text in (kernels, readme):
        assert f"[{len(passed)} checks passed]" in text
    assert f"{len(unfinished)} further checks have no result" in kernels
    assert f"within their limits of {min(seconds)} to {max(seconds)} seconds" in kernels
    assert f"{len(unfinished)} runs of compute-sanitizer were cut off" in readme


def prose():
    """Pages, and what they have to say."""
    gradient, forward = ratios(CPU, "gradient").values(), ratios(CPU, "forward")
    performance = "docs/performance.md"
    yield "README.md", f"takes {span(gradient, 1)} times as long for the gradient at five sizes"

    by_shape = report(CPU)["gradient"].values()
    shares = [100 * bound(times) / times["gru_jax"]["median"] for times in by_shape]
    yield performance, f"take {span(shares, 0)} % of the time of our gradient"
    rates = [
        [row["gflops"] for name, row in matmuls.items() if "step by step" in name]
        for matmuls in report(CPU)["matmuls"].values()
    ]
    square = [
        next(row["gflops"] for name, row in matmuls.items() if name.startswith("2048"))
        for matmuls in report(CPU)["matmuls"].values()
    ]
    parts = [100 * rate / top for group, top in zip(rates, square, strict=True) for rate in group]
    yield performance, f"at {span(parts, 0)} % of the rate of a large square matmul"

    for name, words in ((CPU, "on the five sizes"), (SIZES, "On the ten other sizes it takes")):
        onnx = [
            times["onnxruntime"]["median"] / times["gru_jax"]["median"]
            for times in report(name)["forward"].values()
        ]
        yield performance, words
        yield performance, f"{span(onnx)} times as long"
        yield performance, f"{mean(onnx)} in the mean"
    in_jax = {
        name: ratios(name, "forward", only_jax=True)
        for name in (CPU, SIZES, AVX2, JAX12, JAX12_SIZES)
    }
    yield performance, f"takes {span(in_jax[CPU].values())} times as long on the five sizes"
    yield performance, f"it takes {span(in_jax[SIZES].values())} times as long"
    for shape in ("128,50,64,768", "1,500,64,768"):
        yield performance, f"At {shape} "
        yield performance, f"is {in_jax[SIZES][shape]:.2f}."
    yield performance, f"takes {span(in_jax[AVX2].values())} times as long for the forward pass"
    lowest = min(in_jax[AVX2], key=in_jax[AVX2].__getitem__)
    yield performance, f"{in_jax[AVX2][lowest]:.2f} is at {lowest}"
    least = min(ratios(AVX2, "gradient"), key=ratios(AVX2, "gradient").__getitem__)
    yield performance, f"The ratio is lowest at {least}"
    yield performance, f"takes {span(in_jax[JAX12].values())} times as long for the forward pass"
    yield performance, f"and {span(in_jax[JAX12_SIZES].values())} times on the ten other sizes"
    assert forward.keys() == in_jax[CPU].keys()

    slower = [
        bound(report(AVX2)["gradient"][shape]) / bound(report(CPU)["gradient"][shape])
        for shape in report(CPU)["gradient"]
    ]
    yield performance, f"matmuls take {span(slower, 1)} times as long"

    def training(name):
        ours, theirs = (spread["median"] for spread in report(name)["music"].values())
        return theirs / ours

    yield performance, f"makes {training(CPU):.2f} times the steps"
    yield performance, f"{training(JAX12):.2f} times with JAX 0.12, and {training(AVX2):.2f} times"

    ((_, kinds),) = report(CPU)["cells"].items()
    shares = [
        kinds[kind]["GRU"][direction]["median"] / kinds[kind]["LSTM"][direction]["median"]
        for kind in kinds
        for direction in ("forward", "gradient")
    ]
    yield performance, f"a GRU took {shares[0]:.2f} of the LSTM's time for the forward pass"
    yield performance, f"and {shares[1]:.2f} for the gradient"
    yield performance, f"it took {shares[2]:.2f} and {shares[3]:.2f}"

    def first(name):
        by_shape = report(name)["process"].values()
        return span((row["gru_jax"]["first_ms"] / row["linen"]["first_ms"] for row in by_shape), 1)

    yield performance, f"takes {first(CPU)} times as long as Linen's"
    yield performance, f"With JAX 0.12 it takes {first(JAX12)} times as long"
    yield performance, f"with AVX2 {first(AVX2)} times"

    fused = {
        key: row
        for key, row in gpu_rows().items()
        if key[0] == "gru_jax fused" and "forward" in row
    }
    micros = [
        1e3 * row["forward"]["median"] / int(key[2].split(",")[1]) for key, row in fused.items()
    ]
    assert [key[2] for key in fused] == ["64,512,256,256", "64,1024,512,512"]
    yield performance, f"takes {micros[0]:.1f} µs forward at a hidden size of 256"
    yield performance, f"and {micros[1]:.1f} µs at 512"
    yield "docs/design/hopper-kernel.md", f"{micros[0]:.1f} µs per step at a hidden size of 256"
    small = gpu_rows()["torch.nn.GRU", "float32", "32,2048,128,128"]
    times = [small[kind]["median"] for kind in ("forward", "gradient")]
    yield performance, f"takes {times[0]:.2f} / {times[1]:.2f} ms in float32"
    yield performance, f"{1e3 * times[0] / 2048:.1f} µs a step forward"

    ((_, long),) = report(CPU)["long"].items()
    for label, name in (
        ("`checkpoint=None`", "gru_jax"),
        ('`checkpoint="step"`', "gru_jax, recompute"),
        ('`checkpoint="chunk"`', "gru_jax, chunks"),
        ('`lax.scan` differentiated by JAX, `implementation="scan"`', "gru_jax, scan"),
    ):
        yield "docs/guide/precision-and-memory.md", f"| {label} | {long[name]['peak_mib']:,.0f} |"

    one, many = report(CPU)["streaming"].values()
    step, batch, empty = (
        f"{1e3 * spread['median']:.1f} µs"
        for spread in (one["gru_jax.step"], many["gru_jax.step"], one["dispatch"])
    )
    yield "docs/guide/serving.md", f"took {step} for one sequence and {batch} for 32"
    yield "docs/guide/serving.md", f"does nothing took {empty}"

    before, after = (
        [norm_through_time(cell, when, 100) for cell in ("gru", "lstm", "rnn")]
        for when in ("before", "after")
    )
    experiments = "docs/experiments.md"
    yield experiments, f"is {before[0]:.2f} of the last one in the GRU, {before[1]:.2f} in the LSTM"
    yield experiments, f"{before[2]:.0e}".replace("e-0", "e-") + " in the plain RNN"
    gru, rnn = (norm_through_time(cell, "before", 199) for cell in ("gru", "rnn"))
    yield experiments, f"it is {gru:.2f} in the GRU and {rnn:.1e}".replace("e-0", "e-")
    assert 1e-3 / 2 < rnn / gru < 2e-3  # "a thousandth"
    yield experiments, f"After training it is {after[0]:.2f} in the GRU and {after[1]:.1f} in the"
    yield experiments, f"In the plain RNN it is {after[2]:.1e} after training"
    gru, lstm = (norm_through_time(cell, "before", 500, "copy-500") for cell in ("gru", "lstm"))
    yield experiments, f"the norm is {gru:.2f} in the GRU, which starts with the chrono"
    yield experiments, f"In the LSTM it is {lstm:.1e}"


def norm_through_time(cell, when, distance, experiment="adding"):
    """The relative norm of a gradient through time, the geometric mean over the seeds."""
    path = ROOT / "experiments" / "results" / experiment / "gradients.json"
    result = json.loads(path.read_text())
    at = result["distances"].index(distance)
    norms = [of_seed[at] for of_seed in result["cells"][cell][when]]
    return math.exp(sum(map(math.log, norms)) / len(norms))


def test_prose_says_what_was_measured():
    assert [claim for claim in prose() if claim[1] not in text_of(claim[0])] == []


def test_what_is_said_of_rollouts():
    times = report("rl")["gradient"]

    def median(title, name):
        return times[title][name]["median"]

    def ratio(title):
        others = [name for name in times[title] if not is_ours(name)]
        return median(title, "gru_jax") / min(median(title, name) for name in others)

    cost = max(median(title, "gru_jax") / median(title, "gru_jax, no starts") for title in times)
    small = [ratio(t) for t in times if "seeds" not in t and int(t.partition(",")[0]) <= 128]
    (large,) = [ratio(t) for t in times if t.startswith("1024")]
    seeds = [ratio(t) for t in times if "seeds" in t]
    text = text_of("docs/performance.md")
    assert f"`starts` cost at most {100 * (cost - 1):.0f} %" in text
    assert f"{span(small)} of the time at up to 128 environments with one seed" in text
    assert f"{large:.2f} with 1,024 environments" in text
    assert f"{span(seeds)} with eight" in text


def test_bytes_of_the_one_block_kernels():
    text = (DOCS / "design" / "one-block-kernel.md").read_text()
    names = "forward, with a gradient", "backward"
    forward, backward = (
        sum(map(int, re.search(rf"\| {name} \| (\d+) \(\d+\) \| (\d+) ", text).groups()))
        for name in names
    )
    size, moved = r"(\d+), (\d+), \d+, (\d+)", r"([\d,]+) MB"
    rows = re.findall(rf"\| {size} \| {moved} \| {moved} \| (.*) ms \|", text)
    assert len(rows) == 4
    for batch, time, hidden, *stated, milliseconds in rows:
        units = int(batch) * int(time) * int(hidden)
        assert stated == [f"{units * each / 1e6:,.0f}" for each in (forward, backward)]
        seconds = units * (forward + backward) / DEVICES["H100"].bytes_per_second
        assert milliseconds == f"{seconds * 1e3:.2f}"


def test_sizes_that_kernels_for_tpu_support():
    sizes = {kind: max_hidden_size(spec) for kind, spec in TPU_SPECS.items()}
    v4 = sizes.pop("TPU v4")
    (others,) = set(sizes.values())
    assert f"up to {v4} on v4 and up to {others} on the others" in text_of("docs/kernels.md")


def test_thresholds_of_the_schedule():
    tuning = import_module("gru_jax._unroll.xla.tuning").CPU_TUNING
    section = (DOCS / "performance.md").read_text().split("## The schedule on CPUs")[1]
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", section.split("\n## ")[0], re.M)
    assert rows
    for path, shown in rows:
        value = attrgetter(path)(tuning)
        if path == "shards.max_shards":  # The number of cores.
            continue
        powers = [2 ** int(power) for power in re.findall(r"2\^(\d+)", shown)]
        without_names = shown.replace("AVX-512", "")
        numbers = [int(number) for number in re.findall(r"\d+", without_names)]
        assert value in ([powers[0] - sum(powers[1:])] if powers else numbers), path
    documented = {path for path, _ in rows}
    for field in dataclasses.fields(tuning):
        group = getattr(tuning, field.name)
        if dataclasses.is_dataclass(group):
            names = {f"{field.name}.{threshold.name}" for threshold in dataclasses.fields(group)}
            assert names - documented <= {"residuals.save_preactivations"}


def test_shares_of_devices_are_those_of_the_report():
    """The table of docs/guide/devices.md, at 64 steps and a batch along an explicit axis."""
    report = json.loads((ROOT / "benchmarks" / "devices.json").read_text())["sizes"]
    text = (ROOT / "docs" / "guide" / "devices.md").read_text()
    rows = re.findall(
        r"^\| (1024|4096) \| (\d) \| ([\d.]+) \| ([\d.]+) \| (\d) \| (\d) \|$", text, re.M
    )
    assert len(rows) == 4
    for batch, count, *shown in rows:
        (measured,) = (of for size, of in report.items() if size.startswith(f"{batch},"))
        by_count = measured["work"]["explicit"]["64"]
        work, one = by_count[count], by_count["1"]
        shares = [f"{work[key] / one[key]:.3f}" for key in ("flops", "bytes_written")]
        assert shown == [*shares, str(work["collectives"]), str(work["collectives_in_loops"])]
