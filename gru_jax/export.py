"""Programs for serving: steps and sequences in StableHLO, run by JAX without this library.

A file is a ZIP archive of two members: `note.json`, which says what it is and what made it, and
`program`, which `jax.export.deserialize` reads.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import export as jax_export

from gru_jax import _checks
from gru_jax._files import write_atomically
from gru_jax._unroll import initial_state, step, unroll
from gru_jax.cells import Cell
from gru_jax.interop.files import file_errors, import_optional, read_archive, read_bytes
from gru_jax.stack import Stack, unroll_stack
from gru_jax.typing import DType

FORMAT, VERSION = "gru_jax program", 1
PLATFORMS = ("cpu", "cuda", "tpu")
METADATA, PROGRAM = "note.json", "program"

Tree = Any


@dataclasses.dataclass(frozen=True)
class ExportedProgram:
    """What a file of this module holds.

    Attributes:
        call: the program, differentiable if it was exported so; works under ``jax.jit``.
        metadata: what made it: versions of the library and of JAX, the model's equation and sizes,
            platforms, and the types of arguments and results.
    """

    call: Callable[..., Tree]
    metadata: dict[str, Any]


def export_step(
    ours: Cell | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: DType = jnp.float32,
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A program of one step, for streams: ``(state, x) -> state``, for a batch of any size.

    Args:
        ours: a cell, whose state is that of :func:`gru_jax.initial_state`, (batch, H), with
            tuples in place of named ones; or a stack that reads forward, whose step is
            ``(states, x) -> (states, y)``, states by layer and direction.
        path: of a file to write, whole or not at all; None writes none.
        dtype: of ``x``, (batch, D).
        trainable: whether the parameters are the first argument, as :func:`param_arrays` gives
            them, and the program has a derivative; otherwise they lie in the file.
        platforms: what the program is lowered for: "cpu", "cuda", "rocm", "tpu".

    Returns:
        The content of the file.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a stack that reads backward, which has to know the end; unknown platforms.
        OSError: the file cannot be written.
        ImportError: flatbuffers is not installed, which JAX writes programs with.
    """
    batch = jax_export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((*batch, _input_size(ours)), _checks.floating_dtype("dtype", dtype))
    if isinstance(ours, Stack):
        if any(len(layer) == 2 for layer in ours.layers):
            raise ValueError("a stack that reads backward has no step: it has to know the end")

        def advance(params: Any, state: Tree, x: jax.Array) -> Tree:
            states, ys = unroll_stack(params, x[None], state_from_tuples(params, state))
            return state_to_tuples(states), ys[0]
    else:

        def advance(params: Any, state: Tree, x: jax.Array) -> Tree:
            return state_to_tuples(step(params, state_from_tuples(params, state), x))

    state = state_shapes(ours, batch)
    return _export("step", advance, ours, (state, x), path, trainable, platforms)


def export_unroll(
    ours: Cell | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    lengths: bool = False,
    reverse: bool = False,
    dtype: DType = jnp.float32,
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A program of whole sequences: ``(xs, h0) -> (h_last, ys)``, for any batch and time but 0.

    Args:
        ours: a cell or a stack.
        path: of a file to write, whole or not at all; None writes none.
        lengths: whether lengths (batch,), int32, are an argument after ``h0``.
        reverse: as for :func:`gru_jax.unroll`.
        dtype: of ``xs``, (time, batch, D).
        trainable, platforms: as for :func:`export_step`.

    Returns:
        The content of the file.

    Raises:
        TypeError, ValueError, OSError, ImportError: as :func:`export_step`.
    """
    time, batch = jax_export.symbolic_shape("time, batch")
    dtype = _checks.floating_dtype("dtype", dtype)
    _checks.one_of("reverse", reverse, (False, True))
    run: Any = unroll_stack if isinstance(ours, Stack) else unroll

    def sequence(params: Any, xs: jax.Array, h0: Tree, lengths: jax.Array | None = None) -> Tree:
        state = state_from_tuples(params, h0)
        last, ys = run(params, xs, state, lengths=lengths, reverse=reverse)
        return state_to_tuples(last), ys

    arguments = (
        jax.ShapeDtypeStruct((time, batch, _input_size(ours)), dtype),
        state_shapes(ours, (batch,)),
        *([jax.ShapeDtypeStruct((batch,), jnp.int32)] if lengths else []),
    )
    return _export("unroll", sequence, ours, arguments, path, trainable, platforms)


def export_function(
    function: Callable[..., Tree],
    arguments: Sequence[Tree],
    path: str | os.PathLike[str] | None = None,
    *,
    metadata: dict[str, Any],
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A program of any function, such as a whole model's; arrays it closes over lie in the file.

    Sizes that may be any are symbols: ``jax.export.symbolic_shape("time, batch")``. Where time is
    one, ``checkpoint`` of :func:`gru_jax.unroll` may be None or ``"step"``.

    Args:
        function: of positional arguments, trees of tuples, lists, dictionaries and arrays.
        arguments: their shapes and types, as ``jax.ShapeDtypeStruct``.
        path: of a file to write, whole or not at all; None writes none.
        metadata: what the file is to say of it, JSON; versions and types are added.
        trainable: whether the program has a derivative.
        platforms: what it is lowered for.

    Returns:
        The content of the file.

    Raises:
        ValueError: unknown platforms.
        OSError: the file cannot be written.
        ImportError: flatbuffers is not installed, which JAX writes programs with.
    """
    import_optional("flatbuffers")
    for platform in platforms:
        _checks.one_of("platforms", platform, (*PLATFORMS, "rocm"))
    exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    program = bytes(exported.serialize(vjp_order=int(trainable)))
    described = {
        "format": FORMAT,
        "version": VERSION,
        "library": f"gru-jax {_version()}",
        "jax": jax.__version__,
        **metadata,
        "platforms": list(platforms),
        "trainable": trainable,
        "arguments": [str(aval) for aval in exported.in_avals],
        "results": [str(aval) for aval in exported.out_avals],
        "sha256": hashlib.sha256(program).hexdigest(),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(METADATA, json.dumps(described, indent=2) + "\n")
        archive.writestr(PROGRAM, program)
    if path is not None:
        write_atomically(path, content.getvalue())
    return content.getvalue()


def load(theirs: str | os.PathLike[str] | bytes) -> ExportedProgram:
    """The program of a file of this module. A program can do anything: load what you trust.

    Args:
        theirs: the file's path, or its content.

    Raises:
        FileError: the file cannot be read, is none of these, or is damaged; a ValueError that
            names it.
        ValueError: the same for a content.
        ImportError: flatbuffers is not installed.
    """
    import_optional("flatbuffers")
    if isinstance(theirs, bytes):
        return _load(theirs)
    with file_errors(theirs):
        return _load(read_bytes(theirs))


def param_arrays(ours: Cell | Stack) -> Tree:
    """A model's arrays by field, of a stack by layer and direction, as trainable programs take."""
    if isinstance(ours, Stack):
        return tuple(tuple(map(param_arrays, layer)) for layer in ours.layers)
    fields = {field.name: getattr(ours, field.name) for field in _array_fields(ours)}
    return {name: value for name, value in fields.items() if value is not None}


def state_shapes(ours: Any, batch_shape: Any) -> Tree:
    """The types of a model's plain states, for a batch whose axes may be symbols."""
    return jax.eval_shape(lambda: state_to_tuples(initial_state(ours, tuple(batch_shape))))


def state_to_tuples(state: Tree) -> Tree:
    """A state with tuples in place of named ones, whose classes a file cannot hold."""
    return tuple(map(state_to_tuples, state)) if isinstance(state, tuple) else state


def state_from_tuples(ours: Any, state: Tree) -> Tree:
    """The state of a model from a plain one."""
    return jax.tree.unflatten(jax.tree.structure(initial_state(ours)), jax.tree.leaves(state))


def _load(content: bytes) -> ExportedProgram:
    try:
        entries = read_archive(content, (METADATA, PROGRAM))
        metadata, program = json.loads(entries[METADATA]), entries[PROGRAM]
    except (KeyError, RecursionError, ValueError) as error:
        raise ValueError(f"no program that gru_jax.export wrote: {error}") from error
    if not isinstance(metadata, dict) or (metadata.get("format"), metadata.get("version")) != (
        FORMAT,
        VERSION,
    ):
        raise ValueError(f"its metadata says neither format {FORMAT!r} nor version {VERSION}")
    if metadata.get("sha256") != hashlib.sha256(program).hexdigest():
        raise ValueError("its program is not the one that its metadata was written for")
    return ExportedProgram(jax_export.deserialize(bytearray(program)).call, metadata)


def _export(
    name: Literal["step", "unroll"],
    function: Callable[..., Tree],
    ours: Cell | Stack,
    arguments: Sequence[Tree],
    path: str | os.PathLike[str] | None,
    trainable: bool,
    platforms: Sequence[str],
) -> bytes:
    """Exports ``function(params, *arguments)``, the parameters within or an argument."""
    program: Callable[..., Tree] = functools.partial(function, ours)
    if trainable:
        arrays = param_arrays(ours)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)
        arguments = (shapes, *arguments)

        def of_arrays(arrays: Tree, *rest: Tree) -> Tree:
            return function(_with_arrays(ours, arrays), *rest)

        program = of_arrays
    metadata = {"function": name, "model": _describe_model(ours)}
    return export_function(
        program, arguments, path, metadata=metadata, trainable=trainable, platforms=platforms
    )


def _input_size(ours: Cell | Stack) -> int:
    """D; TypeError or ValueError unless there is one such size."""
    if not isinstance(ours, (Cell, Stack)):
        raise TypeError(f"expected a gru_jax.Cell or Stack, got {type(ours).__name__}")
    ours.validate()
    first = ours.layers[0][0] if isinstance(ours, Stack) else ours
    if first.input_size is None or first.num_feature_axes != 1:
        raise ValueError(
            f"{type(first).__name__} does not say what its inputs are; export_function takes "
            "their shape"
        )
    return first.input_size


def _array_fields(cell: Cell) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cell) if not field.metadata.get("static")]


def _with_arrays(ours: Cell | Stack, arrays: Tree) -> Cell | Stack:
    """The model with other arrays, as :func:`param_arrays` gives them."""
    if not isinstance(ours, Stack):
        return dataclasses.replace(ours, **arrays)
    layers = tuple(
        tuple(map(_with_arrays, cells, new)) for cells, new in zip(ours.layers, arrays, strict=True)
    )
    return dataclasses.replace(ours, layers=layers)


def _describe_model(ours: Cell | Stack) -> dict[str, Any]:
    """The equation and the sizes, for people to read."""
    if isinstance(ours, Stack):
        layers = [[_describe_model(cell) for cell in layer] for layer in ours.layers]
        return {"merge": ours.merge, "residual": ours.residual, "layers": layers}
    static = {
        field.name: getattr(ours, field.name)
        for field in dataclasses.fields(ours)
        if field.metadata.get("static")
    }
    shapes = {name: list(array.shape) for name, array in param_arrays(ours).items()}
    return {"cell": type(ours).__name__, **static, "shapes": shapes}


def _version() -> str:
    try:
        return importlib.metadata.version("gru-jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
