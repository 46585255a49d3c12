"""The design's openbible: its rows are the first 10,000 verses that `kjv` reads, so no hub is needed."""

from nano_think.data.sources import SOURCES
from nano_think.data.sources.kjv import KingJames


@SOURCES.register("openbible")
class OpenBible(KingJames):
    """The same documents under the design's name."""

    name = "openbible"
    groups = ("seven",)
