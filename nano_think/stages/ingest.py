"""Sources -> documents in Arrow shards."""

from pathlib import Path
from typing import Any

from nano_think.data.ingest import IngestConfig, fingerprint, ingest
from nano_think.data.stand_ins import settle
from nano_think.stages.stage import Context, Inputs, Stage


class Ingest(Stage):
    """Read, clean, deduplicate and split the text."""

    name = "ingest"
    config: IngestConfig

    def fingerprint(self) -> Any:
        return fingerprint(self.config)

    def modules(self) -> list[str]:
        settled = settle(self.config.sources, self.config.reading, self.config.offline_ok)
        return [__name__, *sorted({type(source).__module__ for source in settled.sources})]

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        return ingest(self.config, out, context.progress.note)
