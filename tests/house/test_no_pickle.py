"""No file that we read can run code: pickle and its kin appear nowhere in what ships."""

import ast
from collections.abc import Iterator

import pytest

MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CALLS = {
    "eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip


def dangers(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            unpickles = any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords)
            if name in CALLS or name.endswith(".to_pickle") or unpickles:
                yield f"{node.lineno}: {ast.unparse(node)[:80]}"


def test_nothing_unpickles(root, python_files):
    shipped = [path for path in python_files if path.relative_to(root).parts[0] in ("nano_think", "flows", "tasks")]
    assert shipped
    found = [f"{path.relative_to(root)}:{one}" for path in shipped for one in dangers(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(p)",
        "np.load(p, allow_pickle=True)",
        "eval(text)",
        "yaml.load(f)",
    ],
)
def test_a_danger_is_noticed(line):
    assert list(dangers(line))


@pytest.mark.parametrize("line", ["model.eval()", "np.load(p)", "np.load(p, allow_pickle=False)", "yaml.safe_load(f)"])
def test_what_is_safe_passes(line):
    assert not list(dangers(line))
