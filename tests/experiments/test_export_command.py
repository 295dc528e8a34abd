"""The command `export`: exported files compute what the trained model computes."""

import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.cli import main
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.run import restore_best
from experiments.tasks.digits import split_digits
from gru_jax import export
from gru_jax.interop import safetensors
from tests.experiments.fake_dataset import publish

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(write_config, capfd):
    """Trains what values describe; returns the run's directory."""

    def run(values, *options):
        config = write_config(values)
        assert main(["train", str(config), "--run-dir", "run", *options]) == 0
        capfd.readouterr()
        return Path("run")

    return run


def restored(run, data_dir=Path()):
    directory = RunDirectory(run)
    return restore_best(directory, load_config(directory.config), data_dir)


def run_onnx(path, **inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def run_program(path, *inputs):
    return export.load(path).call(*inputs)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6, strict=True)


@pytest.mark.slow
def test_all_formats_of_a_bidirectional_stack(digits, train):
    values = {**digits, "model": {"hidden_size": 4, "num_layers": 2, "bidirectional": True}}
    run = train(values)
    for name in ("onnx", "stablehlo", "safetensors", "torch"):
        assert main(["export", str(run), "--to", name]) == 0
    task, params = restored(run)
    pixels = np.asarray(split_digits()["test"].pixels[:7])
    expected = task.export_spec.apply(params, pixels, None)
    folder = run / "export"
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.onnx",
        "model.safetensors",
        "model.zip",
        "recurrent.safetensors",
        "torch.safetensors",
    ]
    assert_close(run_program(folder / "model.zip", pixels), expected)
    assert_close(run_onnx(folder / "model.onnx", inputs=pixels)[0], expected)
    stack = safetensors.load(folder / "recurrent.safetensors")
    for ours, theirs in zip(
        jax.tree.leaves(stack), jax.tree.leaves(task.export_spec.network.stack(params)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    check_torch(folder / "torch.safetensors", task, pixels, expected)


def check_torch(path, task, pixels, expected):
    """PyTorch's own modules take the state dict and compute the same."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = torch.nn.GRU(1, 4, 2, batch_first=True, bidirectional=True)
            self.readout = torch.nn.Linear(8, 10)

        def forward(self, xs):
            _, states = self.recurrent(xs)
            return self.readout(torch.cat([states[-2], states[-1]], dim=-1))

    model = Model()
    model.load_state_dict(load_file(path), strict=True)
    xs = torch.from_numpy(np.array(task.export_spec.pre_post.before(pixels)))
    assert_close(model(xs).detach().numpy(), expected)


@pytest.mark.slow
def test_streaming_formats_of_a_language_model(train, tmp_path, monkeypatch):
    text = "the quick brown fox jumps over the lazy dog. " * 40
    data_dir = publish("shakespeare", text.encode(), tmp_path, monkeypatch)
    values = {
        "task": "language", "window": 10, "model": {"hidden_size": 5, "num_layers": 2},
        "training": {"steps": 4, "batch_size": 3, "eval_every": 2},
    }  # fmt: skip
    options = ["--data-dir", str(data_dir)]
    run = train(values, *options)
    for name in ("onnx", "stablehlo"):
        assert main(["export", str(run), "--to", name, *options]) == 0
    task, params = restored(run, data_dir)
    symbols = np.random.default_rng(0).integers(0, 20, (2, 9)).astype(np.int32)
    expected = task.export_spec.apply(params, symbols, None)
    assert_close(run_program(run / "export/model.zip", symbols), expected)

    step = export.load(run / "export/step.zip").call
    state = jax.tree.map(
        lambda leaf: np.zeros((2, *leaf.shape[1:]), np.float32),
        export.state_shapes(task.export_spec.network.stack(params), (2,)),
    )
    outputs, states = run_onnx(run / "export/model.onnx", inputs=symbols[:, :4])
    rest, _ = run_onnx(run / "export/model.onnx", inputs=symbols[:, 4:], h0=states)
    assert_close(np.concatenate([outputs, rest], axis=1), expected)
    for at in range(9):
        state, y = step(state, symbols[:, at])
        assert_close(y, expected[:, at])


@pytest.mark.slow
def test_formats_of_an_lstm(adding, train, user_error):
    run = train({**adding, "model": {"hidden_size": 4, "cell": "lstm"}})
    assert main(["export", str(run), "--to", "stablehlo", "--output", "out"]) == 0
    task, params = restored(run)
    sequences = np.random.default_rng(0).random((3, 5, 2), np.float32)
    expected = task.export_spec.apply(params, sequences, None)
    assert_close(run_program("out/model.zip", sequences), expected)
    for name in ("onnx", "torch"):
        message = user_error("export", run, "--to", name)
        assert f"A run of lstm cells cannot be exported to {name}" in message
        assert "--to stablehlo" in message
    assert "exists already" in user_error("export", run, "--to", "stablehlo", "--output", "out")
    assert "There is no format onyx. Did you mean onnx?" in user_error(
        "export", run, "--to", "onyx"
    )
    (run / "summary.json").unlink()
    assert "is not finished" in user_error("export", run, "--to", "onnx")


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("onnx", "onnx"),
        ("stablehlo", "flatbuffers"),
        ("safetensors", "safetensors"),
        ("torch", "safetensors"),
    ],
)
def test_without_the_extra_the_message_names_it(user_error, assume_packages, name, package):
    """The extra `files` suffices for every format; `interop` would install other frameworks."""
    assume_packages(package, installed=False)
    message = user_error("export", "run", "--to", name)
    assert f"--to {name} needs {package}, which is not installed" in message
    assert "pip install -e '.[files]'" in message
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = extras["optional-dependencies"]["files"]
    assert package in {re.match(r"[\w-]+", requirement)[0] for requirement in files}


def test_wrong_directories_are_named(workplace, user_error):
    assert "There is no run in nowhere" in user_error("export", "nowhere", "--to", "onnx")
    assert "There is no run in ." in user_error("export", ".", "--to", "onnx")
    assert "--to" in user_error("export", "run")
