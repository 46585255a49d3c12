"""A file is read in one sitting, a function on one screen."""

import ast

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60


def test_no_file_is_too_long(root, python_files):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files}
    long = [f"{path.relative_to(root)}: {lines} lines" for path, lines in lengths.items() if lines > LINES_OF_A_FILE]
    assert not long, "\n".join(long)


def test_no_function_is_too_long(root, python_files):
    long = []
    for path in python_files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(root)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)
