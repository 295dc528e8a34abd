"""Imports form no cycle, point one way, and load no optional dependency."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import gru_jax

PACKAGE = Path(gru_jax.__file__).parent
ROOT = PACKAGE.parent

# A part may import itself and parts of earlier lines; parts on one line are on one level.
LEVELS = (
    {"typing"},
    {"_checks", "_compat", "_files", "_repr"},
    {"initializers", "dropout"},
    {"cells"},
    {"_autodiff"},
    {"_unroll"},
    {"rl", "stack"},
    {"_explain"},
    {"nn", "interop"},
    {"export"},
    {"training"},
    # Runs the experiments.
    {"__main__"},
)
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for package in ("gru_jax", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """The modules of this repository that a file imports.

    Imports within functions and under TYPE_CHECKING count, too. A parent package that is loaded
    only because of one of its modules does not.
    """
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            assert node.module
            # `from package import name` imports a module or something that a module defines.
            names += [
                module if (module := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            ]
    return {name for name in names if name in MODULES}


@pytest.fixture(scope="module")
def imports():
    return {name: imports_of(path) for name, path in MODULES.items()}


def test_imports_form_no_cycle(imports):
    # The error names the modules of a cycle.
    graphlib.TopologicalSorter(imports).prepare()


def test_cycles_are_found(imports):
    assert "gru_jax.cells.gru" in imports["gru_jax.cells"]
    with_cycle = {**imports, "gru_jax.typing": {"gru_jax.cells"}}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(with_cycle).prepare()


LIBRARY = [name for name in MODULES if name.startswith("gru_jax.")]


@pytest.mark.parametrize("name", LIBRARY)
def test_imports_point_one_way(imports, name):
    own = name.split(".")[1]
    for imported in imports[name]:
        package, _, rest = imported.partition(".")
        assert package == "gru_jax", f"{name} imports {imported}"
        part = rest.split(".")[0]
        assert part == own or LEVEL_OF[part] < LEVEL_OF[own], f"{name} imports {imported}"


def test_every_part_has_a_level():
    assert {name.split(".")[1] for name in LIBRARY} == set(LEVEL_OF)


OPTIONAL = (
    "flax",
    "optax",
    "orbax",
    "chex",
    "matplotlib",
    "sklearn",
    "safetensors",
    "h5py",
    "torch",
)
OPTIONAL += ("keras", "tensorflow", "haiku", "equinox", "onnx", "onnxruntime")
CONVERTERS = sorted(path.stem for path in (PACKAGE / "interop").glob("[!_]*.py"))


@pytest.mark.parametrize("modules", ["gru_jax", "interop"])
def test_import_loads_no_optional_dependency(modules):
    """A converter imports its framework only when it is called."""
    if modules == "interop":
        names = [name for name in CONVERTERS if name != "hdf5_reader"]
        modules = ", ".join(f"gru_jax.interop.{name}" for name in names)
    program = f"import sys, {modules}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "gru_jax" in loaded
    assert not set(OPTIONAL) & set(loaded)


def test_import_changes_no_configuration():
    program = (
        "import jax; before = dict(jax.config.values); import gru_jax;"
        "print(before == dict(jax.config.values))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "True"


def test_public_names_are_defined():
    assert gru_jax.__all__ == sorted(gru_jax.__all__)
    for name in gru_jax.__all__:
        assert getattr(gru_jax, name).__module__.startswith("gru_jax.")
