"""The library and its reference compute the outputs of PyTorch, Keras and ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests import reference
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, GRU_BEFORE, LSTM, RNN, Case, Outcome, Problem

Arrays = Mapping[str, np.ndarray]

TORCH = {"gru": GRU_AFTER, "lstm": LSTM, "rnn": RNN}
BY_RESET = {"after": GRU_AFTER, "before": GRU_BEFORE}


class Example(NamedTuple):
    """One pass of one layer in one direction, in this project's layout."""

    case: Case
    weights: dict[str, np.ndarray]
    xs: np.ndarray
    state: reference.State
    controls: dict[str, Any]
    ys: np.ndarray
    state_last: reference.State


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name(f"{name}.npz")) as arrays:
        return dict(arrays)


def from_torch(case: Case, arrays: Arrays, suffix: str = "l0") -> dict[str, np.ndarray]:
    """PyTorch has an input bias and a recurrent bias; its gates are in the canonical order."""
    bias = arrays[f"bias_ih_{suffix}"]
    recurrent_bias = arrays[f"bias_hh_{suffix}"].copy()
    weights = {
        "w_x": arrays[f"weight_ih_{suffix}"].T,
        "w_h": arrays[f"weight_hh_{suffix}"].T,
    }
    if case.has_b_hn:
        new = slice(2 * weights["w_h"].shape[0], None)
        weights["b_hn"] = recurrent_bias[new].copy()
        recurrent_bias[new] = 0
    return weights | {"b": bias + recurrent_bias}


def gradient_from_torch(case: Case, arrays: Arrays, suffix: str) -> dict[str, np.ndarray]:
    """The transposed map: ``b`` is the sum of two biases and so has the gradient of either."""
    gradients = {
        "w_x": arrays[f"grad.weight_ih_{suffix}"].T,
        "w_h": arrays[f"grad.weight_hh_{suffix}"].T,
        "b": arrays[f"grad.bias_ih_{suffix}"],
    }
    if case.has_b_hn:
        gradients["b_hn"] = arrays[f"grad.bias_hh_{suffix}"][2 * gradients["w_h"].shape[0] :]
    return gradients


def rzn_from_zrn(packed: np.ndarray) -> np.ndarray:
    z, r, n = np.split(packed, 3, axis=-1)
    return np.concatenate([r, z, n], axis=-1)


def join_biases(case: Case, bias: np.ndarray, recurrent: np.ndarray) -> dict[str, np.ndarray]:
    """Only the new gate's recurrent bias of the reset-after form cannot be folded into `b`."""
    if not case.has_b_hn:
        return {"b": bias + recurrent}
    r, z, n = np.split(recurrent, 3)
    return {"b": bias + np.concatenate([r, z, np.zeros_like(n)]), "b_hn": n}


def from_keras(case: Case, arrays: Arrays, suffix: str) -> dict[str, np.ndarray]:
    """Keras has one bias in the reset-before form, and two in the other."""
    bias = rzn_from_zrn(arrays[f"bias{suffix}"])
    biases = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    return {
        "w_x": rzn_from_zrn(arrays[f"kernel{suffix}"]),
        "w_h": rzn_from_zrn(arrays[f"recurrent_kernel{suffix}"]),
        **join_biases(case, *biases),
    }


def from_onnx(case: Case, arrays: Arrays, direction: int) -> dict[str, np.ndarray]:
    """ONNX has a leading axis of directions, and concatenates the two biases."""
    bias, recurrent = np.split(arrays["B"][direction], 2)
    return {
        "w_x": rzn_from_zrn(arrays["W"][direction].T),
        "w_h": rzn_from_zrn(arrays["R"][direction].T),
        **join_biases(case, rzn_from_zrn(bias), rzn_from_zrn(recurrent)),
    }


def torch_example(name: str) -> Example:
    arrays, case = load(f"torch_{name}"), TORCH[name]
    return Example(
        case,
        from_torch(case, arrays),
        arrays["xs"],
        tuple(arrays["states"][:, 0]),
        {},
        arrays["ys"],
        tuple(arrays["states_last"][:, 0]),
    )


def keras_example(reset: str, *, reverse: bool) -> Example:
    """Keras returns the outputs of the backward direction in the order of its scan."""
    arrays, case = load(f"keras_gru_{reset}"), BY_RESET[reset]
    suffix = "_backward" if reverse else ""
    ys = arrays[f"ys{suffix}"]
    return Example(
        case,
        from_keras(case, arrays, suffix),
        arrays["xs"],
        (arrays["h0"],),
        {"mask": arrays["mask"], "reverse": reverse},
        ys[::-1] if reverse else ys,
        (arrays[f"h_last{suffix}"],),
    )


def onnx_example(reset: str, *, reverse: bool) -> Example:
    arrays, case = load(f"onnxruntime_gru_{reset}"), BY_RESET[reset]
    direction = int(reverse)
    return Example(
        case,
        from_onnx(case, arrays, direction),
        arrays["X"],
        (arrays["initial_h"][direction],),
        {"lengths": arrays["sequence_lens"], "reverse": reverse},
        arrays["Y"][:, direction],
        (arrays["Y_h"][direction],),
    )


EXAMPLES = {
    **{f"torch-{name}": torch_example(name) for name in TORCH},
    **{
        f"{make.__name__.removesuffix('_example')}-{reset}-{'reverse' if reverse else 'forward'}": (
            make(reset, reverse=reverse)
        )
        for make in (keras_example, onnx_example)
        for reset in BY_RESET
        for reverse in (False, True)
    },
}


def unroll_library(example: Example) -> tuple[reference.State, np.ndarray]:
    dtype = example.xs.dtype.name
    last, ys = gru_jax.unroll(
        example.case.cell(example.weights, dtype),
        jnp.asarray(example.xs),
        example.case.state(example.state, dtype),
        **example.controls,
    )
    return tuple(np.asarray(leaf) for leaf in jax.tree.leaves(last)), np.asarray(ys)


def unroll_reference(example: Example) -> tuple[reference.State, np.ndarray]:
    return reference.unroll(
        example.case.step, example.weights, example.xs, example.state, **example.controls
    )


@pytest.mark.parametrize("unroll", [unroll_library, unroll_reference])
@pytest.mark.parametrize("name", EXAMPLES)
@jax.enable_x64(True)
def test_values(name, unroll):
    example = EXAMPLES[name]
    state_last, ys = unroll(example)
    dtype = example.ys.dtype.name
    assert_close(ys, example.ys, dtype)
    assert_close(state_last, example.state_last, dtype)


@pytest.mark.parametrize("swapped", [(1, 0, 2), (2, 1, 0), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("field", ["w_x", "w_h", "b"])
@pytest.mark.parametrize("name", [name for name in EXAMPLES if EXAMPLES[name].case.gates == 3])
def test_values_tell_gates_apart(name, field, swapped):
    example = EXAMPLES[name]
    gates = np.split(example.weights[field], 3, axis=-1)
    weights = example.weights | {field: np.concatenate([gates[i] for i in swapped], axis=-1)}
    _, ys = unroll_reference(example._replace(weights=weights))
    assert np.abs(ys - example.ys).max() > 0.01


@pytest.mark.parametrize("reset", BY_RESET)
def test_values_tell_the_equations_apart(reset):
    example = keras_example(reset, reverse=False)
    other = BY_RESET["before" if reset == "after" else "after"]
    _, ys = unroll_reference(example._replace(case=other))
    assert np.abs(ys - example.ys).max() > 0.01


def torch_problem(name: str) -> tuple[Problem, Outcome]:
    example, arrays = torch_example(name), load(f"torch_{name}")
    problem = Problem(
        case=example.case,
        weights=example.weights,
        xs=example.xs,
        state=example.state,
        cotangent_ys=arrays["cotangent_ys"],
        cotangent_state=tuple(arrays["cotangent_states_last"][:, 0]),
    )
    states = {f"state.{i}": leaf for i, leaf in enumerate(arrays["grad.states"][:, 0])}
    weights = gradient_from_torch(example.case, arrays, "l0")
    gradients = {**weights, "xs": arrays["grad.xs"], **states}
    return problem, Outcome(example.state_last, example.ys, gradients)


@pytest.mark.parametrize("name", TORCH)
@jax.enable_x64(True)
def test_gradients(name):
    problem, outcome = torch_problem(name)
    assert_close(problem.run("float64"), outcome, "float64")


@pytest.mark.parametrize("name", TORCH)
def test_gradients_of_the_reference(name):
    problem, outcome = torch_problem(name)
    assert_close(problem.expected(), outcome, "float64")


@pytest.mark.parametrize("name", TORCH)
@jax.enable_x64(True)
def test_two_layers_in_both_directions(name):
    """PyTorch orders states by layer and, within a layer, by direction."""
    case, arrays = TORCH[name], load(f"torch_{name}_stack")
    suffixes = [["l0", "l0_reverse"], ["l1", "l1_reverse"]]
    stack = gru_jax.Stack(
        layers=tuple(
            tuple(case.cell(from_torch(case, arrays, suffix), "float64") for suffix in layer)
            for layer in suffixes
        )
    )

    def nest(states):
        return tuple(
            tuple(case.state(states[:, 2 * layer + direction], "float64") for direction in (0, 1))
            for layer in (0, 1)
        )

    cotangent_state = nest(arrays["cotangent_states_last"])

    def run(stack, xs, states):
        last, ys = gru_jax.unroll_stack(stack, xs, states, lengths=arrays["lengths"])
        weighed = jax.tree.map(lambda a, b: (a * b).sum(), last, cotangent_state)
        return (ys * arrays["cotangent_ys"]).sum() + sum(jax.tree.leaves(weighed)), (last, ys)

    differentiate = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))
    (_, (last, ys)), gradients = differentiate(
        stack, jnp.asarray(arrays["xs"]), nest(arrays["states"])
    )
    assert_close(ys, arrays["ys"], "float64")
    assert_close(last, nest(arrays["states_last"]), "float64")
    assert_close(gradients[1], arrays["grad.xs"], "float64")
    assert_close(gradients[2], nest(arrays["grad.states"]), "float64")
    for layer, layer_suffixes in zip(gradients[0].layers, suffixes, strict=True):
        for cell, suffix in zip(layer, layer_suffixes, strict=True):
            expected = gradient_from_torch(case, arrays, suffix)
            assert_close({name: getattr(cell, name) for name in expected}, expected, "float64")
