"""Python files from GitHub, without copies and generated code: the design's codeparrot."""

from nano_think.data.hub import HubSource
from nano_think.data.sources import SOURCES


@SOURCES.register("codeparrot")
class CodeParrot(HubSource):
    """One document per file."""

    name = "codeparrot"
    domain = "code"
    licence = "mixed: the licence of each repository, GPL among them (the dataset's column `license`)"
    citation = "CodeParrot 2021, cleaned, validation part: public GitHub code by way of BigQuery"
    dataset = "codeparrot/codeparrot-clean-valid"
    revision = "4db92d2ec0c1b4c41eeb439cfae16854511d9dcd"
    files = "file-*.json.gz"
    columns = ("content",)
    rows = 5_000
    stand_in = "python_stdlib"
