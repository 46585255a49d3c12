"""The library's own source as a flat folder of modules that import each other by a dot: what transformers can load.

transformers copies a model's code file by file and follows `from .name import`, one level deep. So the modules that a
model needs are found by their imports and written side by side, `nano_think.nn.rope` as `nn_rope.py`, with nothing but
their imports changed. Three that need other packages or a compiler have stand-ins.
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "nano_think"
MODEL = f"{PACKAGE}.export.modeling_nano_think"
STAND_INS = {
    f"{PACKAGE}.{name}": Path(__file__).parent / "stand_ins" / f"{name.replace('.', '_')}.py"
    for name in ("core.config", "core.registry", "nn.native")
}
IMPORT = re.compile(rf"^(\s*)from {PACKAGE}\.([\w.]+) import", flags=re.MULTILINE)


def flattened(experts: dict[str, str]) -> dict[str, str]:
    """File name -> source of the model and of all it needs. `experts`: module -> class of each expert of the model."""
    wanted, files = [MODEL, *experts], {}
    for module in wanted:
        text = _source(module).read_text(encoding="utf-8")
        wanted += [needed for needed in _imports(text) if needed not in wanted]
        files[_file(module)] = IMPORT.sub(lambda found: f"{found[1]}from .{_flat(found[2])} import", text)
    files[_file(MODEL)] += "".join(["\n\n# Registered by being imported.\n", *_registering(experts)])
    return files


def _registering(experts: dict[str, str]) -> Iterator[str]:
    for module, name in sorted(experts.items()):
        yield f"from .{_file(module).removesuffix('.py')} import {name} as {name}  # noqa: E402\n"


def _source(module: str) -> Path:
    if module in STAND_INS:
        return STAND_INS[module]
    spec = find_spec(module)
    assert spec and spec.origin, f"{module} has no source"
    return Path(spec.origin)


def _imports(text: str) -> Iterator[str]:
    """The modules of ours that a source imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith(PACKAGE) for alias in node.names), "imported as a whole"


def _flat(name: str) -> str:
    return name.removeprefix("export.").replace(".", "_")


def _file(module: str) -> str:
    return f"{_flat(module.removeprefix(f'{PACKAGE}.'))}.py"
