"""Importing the library is cheap, and its parts depend on each other in one direction only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gru_jax

ROOT = Path(gru_jax.__file__).parent

# Each part may import itself and what stands before it; parts of a line stand on one level.
LEVELS = (
    {"typing"},
    {"_checks", "_files"},
    {"initializers", "dropout"},
    {"cells"},
    {"_autodiff"},
    {"_unroll"},
    {"stack"},
    {"nn", "interop"},
    {"export"},
    {"training"},
)
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Which parts of the library a file imports, wherever in it the import stands."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    split = [module.split(".") for module in modules]
    return {names[1] for names in split if names[0] == "gru_jax"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part_of(path)
    for imported in imported_parts(path):
        assert imported == own or LEVEL_OF[imported] < LEVEL_OF[own], f"{own} imports {imported}"


def test_every_part_has_its_level():
    """A part that is missing above would escape the other test."""
    assert {part_of(path) for path in FILES} <= set(LEVEL_OF)


OTHERS = ("flax", "optax", "orbax", "chex", "matplotlib", "sklearn", "safetensors", "h5py", "torch")
OTHERS += ("keras", "tensorflow", "haiku", "equinox", "onnx", "onnxruntime")
CONVERTERS = sorted(path.stem for path in (ROOT / "interop").glob("[!_]*.py"))


@pytest.mark.parametrize("modules", ["gru_jax", "interop"])
def test_import_loads_no_other_library(modules):
    """A converter loads its framework where it is called, and not before."""
    if modules == "interop":
        names = [name for name in CONVERTERS if name != "hdf5_reader"]
        modules = ", ".join(f"gru_jax.interop.{name}" for name in names)
    program = f"import sys, {modules}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "gru_jax" in loaded
    assert not set(OTHERS) & set(loaded)


def test_import_changes_no_configuration():
    program = (
        "import jax; before = dict(jax.config.values); import gru_jax;"
        "print(before == dict(jax.config.values))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "True"


def test_every_public_name_is_there():
    assert gru_jax.__all__ == sorted(gru_jax.__all__)
    for name in gru_jax.__all__:
        assert getattr(gru_jax, name).__module__.startswith("gru_jax.")
