"""Exported programs: they compute what the library computes, in a process that has JAX alone."""

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax

pytest.importorskip("flatbuffers")

from experiments.interop.bad_files.archives import rezip, unzip
from gru_jax import export
from gru_jax.interop.files import FileError

LENGTHS = jnp.array([6, 0, 3, 1], jnp.int32)

WITHOUT_THE_LIBRARY = """
import sys

class Reject:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gru_jax", "flax", "experiments"):
            raise ImportError(name)

sys.meta_path.insert(0, Reject())
import jax, numpy as np, zipfile

folder = sys.argv[1]
inputs = np.load(f"{folder}/inputs.npz")
read = lambda name: jax.export.deserialize(
    bytearray(zipfile.ZipFile(f"{folder}/{name}").read("program"))
)
h_last, ys = jax.jit(read("unroll.zip").call)(inputs["xs"], inputs["h0"], inputs["lengths"])
step = jax.jit(read("step.zip").call)
h = inputs["h0"]
for x in inputs["xs"]:
    h = step(h, x)
np.savez(f"{folder}/outputs.npz", h_last=h_last, ys=ys, h=h)
assert "gru_jax" not in sys.modules
"""


def randomized(params, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.6, leaf.shape), leaf.dtype), params
    )


def gru(**options):
    return randomized(gru_jax.init(jax.random.key(0), 3, 4, **options))


def random_array(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


assert_close = functools.partial(chex.assert_trees_all_close, rtol=1e-6, atol=1e-6, strict=True)


def test_a_process_without_the_library_runs_the_files(tmp_path):
    params = gru()
    export.export_unroll(params, tmp_path / "unroll.zip", lengths=True)
    export.export_step(params, tmp_path / "step.zip")
    xs, h0 = random_array(6, 4, 3), random_array(4, 4)
    np.savez(tmp_path / "inputs.npz", xs=xs, h0=h0, lengths=LENGTHS)
    command = [sys.executable, "-c", WITHOUT_THE_LIBRARY, str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    outputs = np.load(tmp_path / "outputs.npz")
    h_last, ys = gru_jax.unroll(params, xs, h0, lengths=LENGTHS)
    assert_close((outputs["h_last"], outputs["ys"]), (h_last, ys))
    assert_close(outputs["h"], gru_jax.unroll(params, xs, h0)[0])


def test_sequences_of_any_batch_and_time():
    params = gru(reset="before", learned_h0=True)
    call = export.load(export.export_unroll(params, lengths=True, reverse=True)).call
    for time, batch in ((6, 4), (1, 1)):
        xs = random_array(time, batch, 3)
        h0 = gru_jax.initial_state(params, (batch,))
        lengths = jnp.arange(batch, dtype=jnp.int32) % (time + 1)
        expected = gru_jax.unroll(params, xs, lengths=lengths, reverse=True)
        assert_close(call(xs, h0, lengths), expected)


def test_a_stack_in_both_directions():
    stack = gru_jax.init_stack(jax.random.key(0), 3, 4, num_layers=2, bidirectional=True)
    xs, states = random_array(5, 2, 3), randomized(gru_jax.initial_state(stack, (2,)))
    found = export.load(export.export_unroll(stack)).call(xs, states)
    assert_close(found, gru_jax.unroll_stack(stack, xs, states))


def test_a_stream_through_a_stack_of_lstms():
    """Whose states are named tuples, which a file does not know."""
    stack = gru_jax.init_stack(jax.random.key(0), 3, 4, num_layers=2, init_cell=gru_jax.init_lstm)
    call = export.load(export.export_step(stack)).call
    xs, states = random_array(3, 2, 3), gru_jax.initial_state(stack, (2,))
    plain = tuple(tuple(tuple(state) for state in layer) for layer in states)
    ys = []
    for x in xs:
        plain, y = call(plain, x)
        ys.append(y)
    last, expected = gru_jax.unroll_stack(stack, xs, states)
    assert_close(jnp.stack(ys), expected)
    assert_close(jax.tree.leaves(plain), jax.tree.leaves(last))


def test_trainable_programs_have_the_gradient():
    params, xs, h0 = gru(), random_array(5, 2, 3), random_array(2, 4)
    call = export.load(export.export_unroll(params, lengths=True, trainable=True)).call
    lengths = LENGTHS[1:3]

    def loss(outputs):
        h_last, ys = outputs
        return jnp.sum(h_last**2) + jnp.sum(jnp.sin(ys))

    arrays = export.param_arrays(params)
    gradient = jax.jit(jax.grad(lambda arrays, xs: loss(call(arrays, xs, h0, lengths)), (0, 1)))
    found = gradient(arrays, xs)
    expected = jax.jit(
        jax.grad(lambda params, xs: loss(gru_jax.unroll(params, xs, h0, lengths=lengths)), (0, 1))
    )(params, xs)
    assert_close(found, (export.param_arrays(expected[0]), expected[1]))


@pytest.mark.slow
def test_the_program_for_any_size_has_the_same_gradient_as_that_for_one():
    params, xs = gru(), random_array(7, 3, 3)

    def gradient(params, xs):
        def loss(params):
            return jnp.sum(gru_jax.unroll(params, xs, checkpoint="step")[1] ** 2)

        return export.param_arrays(jax.grad(loss)(params))

    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("time, batch"), 3), jnp.float32)
    program = export.export_function(lambda xs: gradient(params, xs), [shape], metadata={})
    assert_close(export.load(program).call(xs), gradient(params, xs))


def test_programs_are_for_every_platform_and_have_metadata(tmp_path):
    path = tmp_path / "step.zip"
    content = export.export_step(gru(), path, dtype=jnp.bfloat16)
    assert path.read_bytes() == content
    metadata = export.load(path).metadata
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"]
    assert metadata["jax"] == jax.__version__
    assert metadata["model"]["reset"] == "after"
    assert metadata["model"]["shapes"]["w_x"] == [3, 12]
    assert metadata["arguments"] == ["float32[batch,4]", "bfloat16[batch,3]"]
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("note.json")) == metadata


def test_the_same_program_gives_the_same_file_at_any_time(monkeypatch):
    files = []
    # Of one line, since programs hold the lines that they were traced from.
    for seconds in (1_000_000_000.0, 2_000_000_000.0):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        files.append(export.export_step(gru()))
    assert files[0] == files[1]


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="platforms must be one of 'cpu'"):
        export.export_step(gru(), platforms=["gpu"])
    with pytest.raises(TypeError, match=r"platforms must be a sequence of names, got 'cpu'"):
        export.export_step(gru(), platforms="cpu")
    with pytest.raises(ValueError, match="at least one name"):
        export.export_step(gru(), platforms=())
    with pytest.raises(TypeError, match="dict"):
        export.export_step({})
    both = gru_jax.init_stack(jax.random.key(0), 3, 4, bidirectional=True)
    with pytest.raises(ValueError, match="has no step"):
        export.export_step(both)
    with pytest.raises(TypeError, match="dtype"):
        export.export_unroll(gru(), dtype=jnp.int32)
    for name, content in {"empty": b"", "other": b"PK" * 50}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=name):
            export.load(tmp_path / name)
    with pytest.raises(FileError, match="nowhere"):
        export.load(tmp_path / "nowhere")


def test_a_corrupted_program_is_rejected():
    content = bytearray(export.export_step(gru()))
    content[len(content) // 2] ^= 1
    with pytest.raises(ValueError, match=r"no program|not the one"):
        export.load(bytes(content))


@functools.cache
def step_entries():
    """The entries of a file."""
    return unzip(export.export_step(gru()))


def resigned(program, **changes):
    """A file whose metadata have the digest of another program."""
    entries = step_entries()
    digest = {"sha256": hashlib.sha256(program).hexdigest()}
    metadata = json.loads(entries["note.json"]) | digest | changes
    return rezip({"note.json": json.dumps(metadata).encode(), "program": program})


def test_a_corrupted_program_with_the_right_digest_is_rejected(tmp_path):
    good = step_entries()["program"]
    other = unzip(export.export_step(gru(), dtype=jnp.bfloat16))["program"]
    bad = {"empty": b"", "random": bytes(range(256)) * 8, "cut": good[: len(good) // 2]}
    for name, program in (bad | {"of another type": other}).items():
        path = tmp_path / name
        path.write_bytes(resigned(program))
        with pytest.raises(FileError, match=f"{name}: its program"):
            export.load(path)
    # The first bytes say where all others are.
    for at in range(64):
        program = bytearray(good)
        program[at] ^= 255
        with contextlib.suppress(ValueError):
            export.load(resigned(bytes(program)))


def test_a_corrupted_module_is_a_file_error_of_the_first_call(tmp_path):
    good = unzip(export.export_step(gru(), platforms=("cpu",)))["program"]
    at = good.index(b"ML\xefR")
    path = tmp_path / "bad.gru"
    path.write_bytes(resigned(good[:at] + bytes(4) + good[at + 4 :], platforms=["cpu"]))
    program = export.load(path)
    for call in (program.call, jax.jit(program.call)):
        with pytest.raises(FileError, match=r"bad\.gru: its program is corrupted"):
            call(jnp.zeros((2, 4)), jnp.zeros((2, 3)))
