"""Every relative link in the documents leads somewhere, anchors included."""

import re
from pathlib import Path

LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|href)="([^"]+)\"""")
ELSEWHERE = ("http://", "https://", "mailto:")


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = []
    for link in (first or second for first, second in LINK.findall(text)):
        if link.startswith(ELSEWHERE):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


def test_links_resolve(root, files):
    documents = [path for path in files if path.suffix == ".md"]
    assert root / "README.md" in documents
    found = [f"{path.relative_to(root)}: {link}" for path in documents for link in broken(path)]
    assert not found, "\n".join(found)


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](gone.md) [b](#one-two) [c](#three) [d](https://example.org)\n", encoding="utf-8")
    assert broken(page) == ["gone.md", "#three"]
