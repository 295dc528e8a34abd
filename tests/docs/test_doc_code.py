"""Every Python block of README, documentation and docstrings runs; so do the examples."""

import ast
import doctest
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from types import ModuleType

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from tests.docs.pages import DOCS, ROOT, all_pages, blocks_of, name_of
from tests.slow import slow_but

OPTIONAL = {"torch", "keras", "haiku", "equinox", "tensorflow", "gymnax", "grain"}
"""Of the extras `interop`, `rl` and `grain`: blocks that import one are skipped without it."""

NEEDS_RUN = "runs/"
"""In a block that reads what the page's commands wrote, see `test_doc_commands.py`."""

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def python_blocks(page):
    return [
        block
        for block in blocks_of(page)
        if block.language == "python" and "--8<--" not in block.code and NEEDS_RUN not in block.code
    ]


PAGES = [page for page in all_pages() if python_blocks(page)]


def missing_frameworks(code):
    """The optional frameworks that a piece of code imports and that are not installed."""
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return {name for name in imported & OPTIONAL if importlib.util.find_spec(name) is None}


@pytest.mark.parametrize("page", all_pages(), ids=name_of)
def test_blocks_are_of_known_languages(page):
    known = {"python", "sh", "powershell", "text", "bibtex"}
    assert {block.language for block in blocks_of(page)} <= known


@pytest.mark.parametrize("page", slow_but([ROOT / "README.md"], PAGES), ids=name_of)
def test_python_blocks_run_one_after_the_other(page):
    namespace = {"__name__": page.stem}
    for block in python_blocks(page):
        if not missing_frameworks(block.code):
            # Blank lines ahead of it: a traceback then shows the line of the page.
            code = compile("\n" * block.line + block.code, name_of(page), "exec")
            exec(code, namespace)


def test_the_loop_of_the_guide_is_a_short_program():
    blocks = python_blocks(DOCS / "guide" / "training.md")
    (loop,) = (block for block in blocks if "CheckpointStore" in block.code)
    assert len(loop.code.splitlines()) <= 40
    exec(loop.code, {"__name__": "loop"})


@pytest.mark.slow
def test_the_guide_shows_what_explain_prints():
    blocks = blocks_of(DOCS / "guide" / "sequences.md")
    shown = next(number for number, block in enumerate(blocks) if block.language == "text")
    # In a process with one device, as users have it.
    code = f"import gru_jax, jax, jax.numpy as jnp\n{blocks[shown - 1].code}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert result.stdout == blocks[shown].code


def public_objects():
    """Modules, classes, functions and methods of the library that have docstrings."""
    modules = [gru_jax]
    for found in pkgutil.walk_packages(gru_jax.__path__, "gru_jax."):
        private = any(part.startswith("_") for part in found.name.split("."))
        # The reader of HDF5 is a program of its own.
        if not private and not found.name.endswith("hdf5_reader"):
            modules.append(importlib.import_module(found.name))
    seen = {}
    for module in modules:
        seen[module.__name__] = module
        for name, value in vars(module).items():
            if name.startswith("_") or not getattr(value, "__module__", "").startswith("gru_jax"):
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                seen[f"{value.__module__}.{value.__qualname__}"] = value
            if inspect.isclass(value):
                for attribute, member in vars(value).items():
                    if inspect.isfunction(member) and not attribute.startswith("_"):
                        seen[f"{value.__module__}.{member.__qualname__}"] = member
    return seen


def docstring_code(docstring):
    """The blocks of a docstring, after `::` or fenced, that are Python and not equations."""
    lines, found = docstring.splitlines(), []
    for number, line in enumerate(lines):
        if not line.rstrip().endswith("::"):
            continue
        indent = len(line) - len(line.lstrip())
        block = []
        for following in lines[number + 1 :]:
            if following.strip() and len(following) - len(following.lstrip()) <= indent:
                break
            block.append(following)
        found.append(textwrap.dedent("\n".join(block)).strip())
    found += re.findall(r"```python\n(.*?)```", docstring, re.S)
    return [code for code in found if code and is_python(code)]


def is_python(code):
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


DOCTESTED = {
    name: docstring
    for name, value in public_objects().items()
    if ">>>" in (docstring := inspect.getdoc(value) or "")
}

DOCUMENTED = {
    name: code
    for name, value in public_objects().items()
    for code in [docstring_code(inspect.getdoc(value) or "")]
    if code
}


def sample_namespace():
    """What docstrings take for granted: parameters, inputs, and an update of parameters."""

    def update(params, h, **inputs):
        h, _ = gru_jax.unroll(params, h0=h, **inputs)
        return params, h

    params = gru_jax.init(jax.random.key(0), 8, 16)
    names = {name: getattr(gru_jax, name) for name in gru_jax.__all__}
    return names | {
        "gru_jax": gru_jax,
        "jax": jax,
        "jnp": jnp,
        "params": params,
        "h": gru_jax.initial_state(params, (4,)),
        "xs": jnp.ones((50, 4, 8)),
        "lengths": jnp.array([50, 7, 0, 31]),
        "update": update,
    }


@pytest.mark.parametrize("name", DOCUMENTED)
def test_code_of_docstrings_runs(name):
    namespace = sample_namespace()
    for code in DOCUMENTED[name]:
        exec(compile(code, name, "exec"), namespace)


@pytest.mark.parametrize("name", DOCTESTED)
def test_examples_of_docstrings_give_what_they_say(name):
    test = doctest.DocTestParser().get_doctest(DOCTESTED[name], {}, name, None, None)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted
    assert not result.failed


def test_there_is_code_in_docstrings():
    assert any(name.endswith("tbptt_windows") for name in DOCUMENTED)
    assert "gru_jax" in DOCTESTED


@pytest.fixture
def usual_settings():
    """Those that users have, and Optax relies on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def load_example(path):
    code = path.read_text()
    missing = missing_frameworks(code)
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module, ModuleType)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short(path):
    most = {"recurrent_ppo.py": 149}.get(path.name, 80)
    assert 30 <= len(path.read_text().splitlines()) <= most


def test_examples_are_on_their_page():
    shown = re.findall(r'"examples/(\w+\.py)"', (ROOT / "docs" / "examples.md").read_text())
    assert sorted(shown) == [path.name for path in EXAMPLES]


@pytest.mark.slow
def test_quickstart_learns():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "examples" / "quickstart.py"]
    result = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert float(result.stdout.split()[-1]) > 0.95


@pytest.mark.usefixtures("usual_settings")
def test_packing_equals_padding():
    difference, rows = load_example(ROOT / "examples" / "packed_sequences.py").main()
    assert difference < 1e-5
    assert rows < 64


@pytest.mark.usefixtures("usual_settings")
def test_replays_match_rollouts_with_the_right_flags_only():
    right, early = load_example(ROOT / "examples" / "rl_resets.py").main().values()
    assert right < 1e-4
    assert early > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("usual_settings")
def test_the_agent_learns_what_needs_memory():
    returns = load_example(ROOT / "examples" / "recurrent_ppo.py").main()
    assert abs(returns[0]) < 0.3
    assert returns[-5:].mean() > 0.95


@pytest.mark.usefixtures("usual_settings")
def test_the_language_model_learns(monkeypatch):
    monkeypatch.delenv("GRU_JAX_DATA", raising=False)
    module = load_example(ROOT / "examples" / "tbptt_char_rnn.py")
    monkeypatch.setattr(module, "UPDATES", 30)
    bits = module.main()
    assert bits[-1] < bits[0] - 1


@pytest.mark.usefixtures("usual_settings")
def test_pytorch_and_jax_agree():
    assert max(load_example(ROOT / "examples" / "pytorch_to_jax.py").main()) < 1e-5
