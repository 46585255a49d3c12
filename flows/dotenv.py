"""A marked block in the file `.env`, which Prefect reads in the folder that it is called in."""

from pathlib import Path

from nano_think.core.errors import storage
from nano_think.core.files import replacing

BEGIN, END = "# >>> written by nano-think up, removed by nano-think down >>>", "# <<< nano-think <<<"


def write_block(path: Path, values: dict[str, str]) -> None:
    """Put the values into our block at the end of the file, which only its owner may read; all other lines stay."""
    block = "".join(f"{line}\n" for line in (BEGIN, *(f"{name}={value}" for name, value in values.items()), END))
    kept = _others(path)
    _write(path, kept + ("\n" if kept and not kept.endswith("\n") else "") + block)


def remove_block(path: Path) -> None:
    """Take our block out again; the file goes with it if nothing else is in it."""
    if not path.is_file() or BEGIN not in path.read_text(encoding="utf-8"):
        return
    kept = _others(path)
    if kept:
        _write(path, kept)
    else:
        path.unlink()


def _others(path: Path) -> str:
    """The file without our block. A block whose end is gone ends with the first line that is no setting of ours."""
    if not path.is_file():
        return ""
    lines, kept, inside = path.read_text(encoding="utf-8").splitlines(keepends=True), "", False
    for line in lines:
        if line.strip() == BEGIN:
            inside = True
        elif inside and (line.strip() == END or not line.startswith("PREFECT_")):
            inside = False
            kept += "" if line.strip() == END else line
        elif not inside:
            kept += line
    return kept


def _write(path: Path, text: str) -> None:
    with storage(path), replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(text, encoding="utf-8")
