"""Griffe extension: the roles of our docstrings, such as ``:func:`gru_jax.unroll```, as links."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|obj):`(~?)([^`<]+)`")


class SphinxRoles(Extension):
    """Rewrites every docstring to Markdown."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: _link(role, obj), obj.docstring.value)
            # A paragraph that ends in two colons announces a code block.
            text = re.sub(r"::$", ":", text, flags=re.M)
            # What is returned, ``(h_last, ys)``: Griffe takes it for a type, and shows it as code.
            obj.docstring.value = re.sub(r"^( +)``([^`]+)``: ", r"\1\2: ", text, flags=re.M)


def _link(role: re.Match[str], obj: Object) -> str:
    """A link where the name is documented, and code everywhere else."""
    name = role[2]
    shown = name.rpartition(".")[2] if role[1] else name
    if "." not in name:
        module = obj if obj.is_module else obj.module
        name = f"{module.path}.{name}"
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'
