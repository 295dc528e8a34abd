"""Programs for serving: steps and sequences as StableHLO, which JAX runs without this library.

A file is a ZIP archive with two members: `note.json`, the metadata, and `program`, which
`jax.export.deserialize` reads.
"""

import contextlib
import dataclasses
import functools
import hashlib
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
from gru_jax.interop.archive import Archive
from gru_jax.interop.files import (
    file_errors,
    import_optional,
    library_version,
    parse_json,
    read_bytes,
)
from gru_jax.stack import Stack, unroll_stack
from gru_jax.typing import DType

FORMAT, VERSION = "gru_jax program", 1
PLATFORMS = ("cpu", "cuda", "tpu")
METADATA, PROGRAM = "note.json", "program"

Tree = Any


@dataclasses.dataclass(frozen=True)
class ExportedProgram:
    """A program that was read from a file.

    Attributes:
        call: the program, differentiable if exported with ``trainable=True``; works under
            ``jax.jit``. The first call checks the compiled module, and raises FileError if it is
            corrupted.
        metadata: versions of the library and of JAX, the model's cells and sizes, platforms, and
            the types of arguments and results.
    """

    call: Callable[..., Tree]
    metadata: dict[str, Any]


def export_step(
    params: Cell | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    dtype: DType = jnp.float32,
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Exports one step, for streams: ``(state, x) -> state``, with a dynamic batch size.

    Args:
        params: a cell, whose state is that of :func:`gru_jax.initial_state`, (batch, H), with plain
            tuples instead of named tuples; or a forward stack, whose step is
            ``(states, x) -> (states, y)``, states by layer and direction.
        path: the file to write, atomically; None writes no file.
        dtype: dtype of ``x``, (batch, D).
        trainable: if True, the program is differentiable and its first argument is the parameters,
            as :func:`param_arrays` returns them; otherwise they are constants of the program.
        platforms: the platforms to lower for: "cpu", "cuda", "rocm", "tpu".

    Returns:
        The content of the file.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a bidirectional stack, which has no step; unknown platforms.
        OSError: the file cannot be written.
        ImportError: flatbuffers, which JAX needs to write programs, is not installed.
    """
    batch = jax_export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((*batch, _input_size(params)), _checks.floating_dtype("dtype", dtype))
    if isinstance(params, Stack):
        if any(len(layer) == 2 for layer in params.layers):
            raise ValueError(
                "a bidirectional stack has no step: it reads each sequence from its end, too"
            )

        def run_step(model: Any, state: Tree, x: jax.Array) -> Tree:
            states, ys = unroll_stack(model, x[None], state_from_tuples(model, state))
            return state_to_tuples(states), ys[0]
    else:

        def run_step(model: Any, state: Tree, x: jax.Array) -> Tree:
            return state_to_tuples(step(model, state_from_tuples(model, state), x))

    state = state_shapes(params, batch)
    return _export("step", run_step, params, (state, x), path, trainable, platforms)


def export_unroll(
    params: Cell | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    lengths: bool = False,
    reverse: bool = False,
    dtype: DType = jnp.float32,
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Exports whole sequences: ``(xs, h0) -> (h_last, ys)``, with dynamic batch and time, not 0.

    Args:
        params: a cell or a stack.
        path: the file to write, atomically; None writes no file.
        lengths: whether the program's third argument is lengths, (batch,) int32.
        reverse: as for :func:`gru_jax.unroll`.
        dtype: dtype of ``xs``, (time, batch, D).
        trainable, platforms: as for :func:`export_step`.

    Returns:
        The content of the file.

    Raises:
        TypeError, ValueError, OSError, ImportError: as :func:`export_step`.
    """
    time, batch = jax_export.symbolic_shape("time, batch")
    dtype = _checks.floating_dtype("dtype", dtype)
    _checks.one_of("reverse", reverse, (False, True))
    run: Any = unroll_stack if isinstance(params, Stack) else unroll

    def sequence(model: Any, xs: jax.Array, h0: Tree, lengths: jax.Array | None = None) -> Tree:
        state = state_from_tuples(model, h0)
        last, ys = run(model, xs, state, lengths=lengths, reverse=reverse)
        return state_to_tuples(last), ys

    arguments = (
        jax.ShapeDtypeStruct((time, batch, _input_size(params)), dtype),
        state_shapes(params, (batch,)),
        *([jax.ShapeDtypeStruct((batch,), jnp.int32)] if lengths else []),
    )
    return _export("unroll", sequence, params, arguments, path, trainable, platforms)


def export_function(
    function: Callable[..., Tree],
    arguments: Sequence[Tree],
    path: str | os.PathLike[str] | None = None,
    *,
    metadata: dict[str, Any],
    trainable: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Exports any function, such as a whole model; arrays in its closure become constants.

    Dynamic sizes are symbols: ``jax.export.symbolic_shape("time, batch")``. If time is a symbol,
    ``checkpoint`` of :func:`gru_jax.unroll` must be None or ``"step"``.

    Args:
        function: a function of positional arguments: trees of tuples, lists, dictionaries and
            arrays.
        arguments: their shapes and dtypes, as ``jax.ShapeDtypeStruct``.
        path: the file to write, atomically; None writes no file.
        metadata: metadata to store, as JSON; versions and types are added.
        trainable: whether the program is differentiable.
        platforms: the platforms to lower for.

    Returns:
        The content of the file.

    Raises:
        TypeError: platforms that are no sequence.
        ValueError: unknown platforms, or none.
        OSError: the file cannot be written.
        ImportError: flatbuffers, which JAX needs to write programs, is not installed.
    """
    import_optional("flatbuffers")
    if isinstance(platforms, str):
        raise TypeError(f"platforms must be a sequence of names, got {platforms!r}")
    if not platforms:
        raise ValueError("platforms must have at least one name, got none")
    for platform in platforms:
        _checks.one_of("platforms", platform, (*PLATFORMS, "rocm"))
    exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    program = bytes(exported.serialize(vjp_order=int(trainable)))
    stored_metadata = {
        "format": FORMAT,
        "version": VERSION,
        "library": f"gru-jax {library_version()}",
        "jax": jax.__version__,
        **metadata,
        "trainable": trainable,
        **_describe_program(exported),
        "sha256": hashlib.sha256(program).hexdigest(),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(_entry(METADATA), json.dumps(stored_metadata, indent=2) + "\n")
        archive.writestr(_entry(PROGRAM), program)
    if path is not None:
        write_atomically(path, content.getvalue())
    return content.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without the present time, so that the same program gives the same file."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    return entry


def load(source: str | os.PathLike[str] | bytes) -> ExportedProgram:
    """Loads a program that this module wrote. Programs can run any code: load only trusted files.

    Args:
        source: the file's path, or its content.

    Raises:
        FileError: the file cannot be read, was not written by this module, or is corrupted; a
            ValueError that names the file.
        ValueError: the same errors, if ``source`` is a file's content.
        ImportError: flatbuffers is not installed.
    """
    import_optional("flatbuffers")
    if isinstance(source, bytes):
        return _load(source, contextlib.nullcontext)
    errors = functools.partial(file_errors, source)
    with errors():
        return _load(read_bytes(source), errors)


def param_arrays(params: Cell | Stack) -> Tree:
    """A cell's arrays by field, a stack's by layer and direction, as trainable programs use."""
    if isinstance(params, Stack):
        return tuple(tuple(map(param_arrays, layer)) for layer in params.layers)
    fields = {field.name: getattr(params, field.name) for field in _array_fields(params)}
    return {name: value for name, value in fields.items() if value is not None}


def state_shapes(params: Any, batch_shape: Any) -> Tree:
    """Shapes and dtypes of a model's states as plain tuples; batch axes may be symbols."""
    return jax.eval_shape(lambda: state_to_tuples(initial_state(params, tuple(batch_shape))))


def state_to_tuples(state: Tree) -> Tree:
    """Replaces named tuples in a state by plain tuples; a file cannot refer to their classes."""
    return tuple(map(state_to_tuples, state)) if isinstance(state, tuple) else state


def state_from_tuples(params: Any, state: Tree) -> Tree:
    """Restores the named tuples of a model's state; the inverse of :func:`state_to_tuples`."""
    return jax.tree.unflatten(jax.tree.structure(initial_state(params)), jax.tree.leaves(state))


def _load(
    content: bytes, errors: Callable[[], contextlib.AbstractContextManager[None]]
) -> ExportedProgram:
    """Loads a file's content; ``errors`` is the context that names the file in errors."""
    try:
        archive = Archive(content)
        metadata = parse_json(archive.read(METADATA), "its note.json")
        program = archive.read(PROGRAM)
    except ValueError as error:
        raise ValueError(f"no program that gru_jax.export wrote: {error}") from error
    if not isinstance(metadata, dict) or (metadata.get("format"), metadata.get("version")) != (
        FORMAT,
        VERSION,
    ):
        raise ValueError(f"its metadata do not have format {FORMAT!r} and version {VERSION}")
    if metadata.get("sha256") != hashlib.sha256(program).hexdigest():
        raise ValueError("its program is not the one that its metadata were written for")
    try:
        exported = jax_export.deserialize(bytearray(program))
        described = _describe_program(exported)
    # JAX does not check what it reads: corrupted programs raise exceptions of many types.
    except Exception as error:
        raise ValueError(f"its program is corrupted: {type(error).__name__}: {error}") from error
    for name, found in described.items():
        if metadata.get(name) != found:
            raise ValueError(f"its program has {name} {found}, but its metadata say otherwise")

    @functools.cache
    def check_module() -> None:
        # It takes longer to parse than all else takes to load, so it waits for the first call.
        try:
            exported.mlir_module()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"its program is corrupted: {reason}") from error

    def call(*args: Tree, **kwargs: Tree) -> Tree:
        with errors():
            check_module()
        return exported.call(*args, **kwargs)

    return ExportedProgram(call, metadata)


def _describe_program(exported: jax_export.Exported) -> dict[str, Any]:
    """What the metadata say of a program, from the program itself."""
    return {
        "platforms": list(exported.platforms),
        "arguments": [str(aval) for aval in exported.in_avals],
        "results": [str(aval) for aval in exported.out_avals],
    }


def _export(
    name: Literal["step", "unroll"],
    function: Callable[..., Tree],
    params: Cell | Stack,
    arguments: Sequence[Tree],
    path: str | os.PathLike[str] | None,
    trainable: bool,
    platforms: Sequence[str],
) -> bytes:
    """Exports ``function(params, *arguments)``, with the parameters as constants or an argument."""
    program: Callable[..., Tree] = functools.partial(function, params)
    if trainable:
        arrays = param_arrays(params)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)
        arguments = (shapes, *arguments)

        def with_arrays(arrays: Tree, *rest: Tree) -> Tree:
            return function(_with_arrays(params, arrays), *rest)

        program = with_arrays
    metadata = {"function": name, "model": _describe_model(params)}
    return export_function(
        program, arguments, path, metadata=metadata, trainable=trainable, platforms=platforms
    )


def _input_size(params: Cell | Stack) -> int:
    """The input size D; TypeError or ValueError if the model does not define one."""
    if not isinstance(params, (Cell, Stack)):
        raise TypeError(f"params must be a gru_jax.Cell or Stack, got {type(params).__name__}")
    params.validate()
    first = params.layers[0][0] if isinstance(params, Stack) else params
    if first.input_size is None or first.num_feature_axes != 1:
        raise ValueError(
            f"{type(first).__name__} does not define its input size; export it with "
            "export_function, which takes the shapes of the inputs"
        )
    return first.input_size


def _array_fields(cell: Cell) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cell) if not field.metadata.get("static")]


def _with_arrays(params: Cell | Stack, arrays: Tree) -> Cell | Stack:
    """The model with other arrays, in the structure of :func:`param_arrays`."""
    if not isinstance(params, Stack):
        return dataclasses.replace(params, **arrays)
    layers = tuple(
        tuple(map(_with_arrays, cells, new))
        for cells, new in zip(params.layers, arrays, strict=True)
    )
    return dataclasses.replace(params, layers=layers)


def _describe_model(params: Cell | Stack) -> dict[str, Any]:
    """A model's cells and sizes, for people to read."""
    if isinstance(params, Stack):
        layers = [[_describe_model(cell) for cell in layer] for layer in params.layers]
        return {"merge": params.merge, "residual": params.residual, "layers": layers}
    static = {
        field.name: getattr(params, field.name)
        for field in dataclasses.fields(params)
        if field.metadata.get("static")
    }
    shapes = {name: list(array.shape) for name, array in param_arrays(params).items()}
    return {"cell": type(params).__name__, **static, "shapes": shapes}
