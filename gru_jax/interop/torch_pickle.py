"""Reads the files that `torch.save` writes: tensors and plain values, without PyTorch.

A file is an archive with a pickle, `NAME/data.pkl`, and the elements of each storage,
`NAME/data/KEY`. Pickles are programs for a stack machine. The one here knows the opcodes that state
dicts need and builds nothing but tuples, lists, dictionaries, numbers, strings and arrays.
"""

import math
import pickletools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gru_jax.interop.archive import Archive

MAX_PICKLE_BYTES = 1 << 22
MAX_OPCODES = 500_000
"""About 50 for each tensor. Each opcode makes one object at most, which bounds the memory."""

STORAGES = {
    "torch FloatStorage": np.dtype("f4"),
    "torch DoubleStorage": np.dtype("f8"),
    "torch HalfStorage": np.dtype("f2"),
    "torch BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch LongStorage": np.dtype("i8"),
    "torch IntStorage": np.dtype("i4"),
    "torch ShortStorage": np.dtype("i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
ORDERED_DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
GLOBALS = frozenset({ORDERED_DICT, TENSOR, PARAMETER, *STORAGES})

CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
WITH_VALUE = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Global(NamedTuple):
    """A class or function that a pickle names."""

    name: str


class Storage(NamedTuple):
    """The elements that tensors are views of."""

    elements: np.ndarray


class _Mark:
    """Marks a place of the stack."""


MARK = _Mark()


def read_torch_file(data: bytes) -> Any:
    """The object in a file's content; tensors are arrays that share the content's memory.

    Raises:
        ValueError: the file is not valid, or holds anything but tensors and plain values.
    """
    archive = Archive(data)
    pickles = [name for name in archive.names if name.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        raise ValueError("the archive does not have exactly one pickle NAME/data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    code = bytes(archive.read(pickles[0]))
    if len(code) > MAX_PICKLE_BYTES:
        raise ValueError(
            f"its pickle has {len(code)} bytes, more than the limit of {MAX_PICKLE_BYTES}"
        )
    byte_order = f"{root}byteorder"
    swapped = byte_order in archive and archive.read(byte_order) == b"big"
    try:
        return _Machine(archive, f"{root}data/", swapped).run(code)
    except (LookupError, TypeError, OverflowError) as error:
        raise ValueError(f"its pickle is corrupted: {error!r}") from error


class _Machine:
    """The stack machine.

    Args:
        archive: the archive with the elements of the storages.
        folder: prefix of the storages' names.
        swapped: whether the elements are big-endian.
    """

    def __init__(self, archive: Archive, folder: str, swapped: bool):
        self._archive = archive
        self._folder = folder
        self._swapped = swapped
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[tuple[str, str], Storage] = {}

    def run(self, code: bytes) -> Any:
        """The object that the pickle builds."""
        stack, memo = self._stack, self._memo
        argument: Any
        for count, (opcode, argument, _) in enumerate(pickletools.genops(code)):
            name = opcode.name
            if count == MAX_OPCODES:
                raise ValueError(f"its pickle has more than the limit of {MAX_OPCODES} opcodes")
            if name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in WITH_VALUE:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name == "MARK":
                stack.append(MARK)
            elif name == "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            elif name in TUPLES:
                stack.append(tuple(self._pop(TUPLES[name])))
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name in ("SETITEM", "SETITEMS"):
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                _set_items(stack[-1], items)
            elif name in ("APPEND", "APPENDS"):
                items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
                _typed(list, stack[-1]).extend(items)
            elif name == "GLOBAL":
                if argument not in GLOBALS:
                    raise ValueError(
                        f"its pickle names {argument[:100]}, which state dicts do not need"
                    )
                stack.append(Global(argument))
            elif name == "BINPERSID":
                stack.append(self._storage(*_typed(tuple, *self._pop(1))))
            elif name == "REDUCE":
                function, arguments = self._pop(2)
                stack.append(self._call(_typed(Global, function), _typed(tuple, arguments)))
            elif name == "BUILD":
                # The attributes of a state dict: versions of modules.
                self._pop(1)
                _typed(dict, stack[-1])
            elif name == "STOP":
                (result,) = stack
                return result
            elif name != "PROTO":
                raise ValueError(f"its pickle has the opcode {name}, which state dicts do not need")
        raise AssertionError("genops ends with STOP or raises")

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("its pickle takes more from the stack than it has")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items = []
        while (item := self._stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def _storage(self, kind: str, dtype: Global, key: str, device: str, size: int) -> Storage:
        """The elements of a storage, of any device."""
        del device
        if kind != "storage" or _typed(Global, dtype).name not in STORAGES:
            raise ValueError("its pickle has a storage of an unknown kind")
        place = (dtype.name, _typed(str, key))
        if place not in self._storages:
            # PyTorch does not compare checksums either: it may be told not to write them.
            content = self._archive.read(self._folder + key, check=False)
            found = np.frombuffer(content, np.uint8).view(STORAGES[dtype.name])
            self._storages[place] = Storage(found.byteswap() if self._swapped else found)
        storage = self._storages[place]
        if storage.elements.size != size:
            raise ValueError(
                f"the storage {key!r} has {storage.elements.size} elements, not {size}"
            )
        return storage

    def _call(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        if function.name == ORDERED_DICT and not arguments:
            return {}
        if function.name == TENSOR:
            # Whether gradients are required, hooks and metadata are not parameters.
            return _tensor(*arguments[:4])
        if function.name == PARAMETER:
            return _typed(np.ndarray, arguments[0])
        raise ValueError(f"its pickle calls {function.name}, which state dicts do not need")


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """A view of a storage; ValueError if it is not within the storage or larger than it."""
    elements = _typed(Storage, storage).elements
    numbers = [offset, *shape, *strides]
    if (
        len(shape) != len(strides)
        or len(shape) > 32
        or any(type(each) is not int for each in numbers)
    ):
        raise ValueError("its pickle has a tensor whose shape and strides are corrupted")
    size = math.prod(shape)
    end = offset + 1 + sum((each - 1) * step for each, step in zip(shape, strides, strict=True))
    if min(numbers) < 0 or size > elements.size or (size and end > elements.size):
        raise ValueError(
            f"a tensor of shape {shape} and strides {strides} does not fit its storage of "
            f"{elements.size} elements"
        )
    if not size:
        return np.zeros(shape, elements.dtype)
    steps = [step * elements.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(elements[offset:], shape, steps, writeable=False)


def _set_items(target: Any, items: list[Any]) -> None:
    """Adds keys and values to a dictionary.

    Keys are strings and 60-bit integers: the time to hash others, or to tell many apart whose
    hashes are equal, may be exponential or quadratic.
    """
    _typed(dict, target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not (type(key) is str or (type(key) is int and abs(key) < 1 << 60)):
            raise ValueError(f"its pickle has a key of type {type(key).__name__}")
        if key in target:
            raise ValueError(f"its pickle has the key {key!r:.100} twice")
        target[key] = value


def _typed(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle has a {type(value).__name__}, expected a {kind.__name__}")
    return value
