"""Sources -> documents in Arrow shards."""

from pathlib import Path
from typing import Any, ClassVar

from nano_think.core.errors import UsageError
from nano_think.data.ingest import IngestConfig, fingerprint, ingest
from nano_think.data.stand_ins import Settled, settle
from nano_think.stages.stage import Context, Inputs, Stage


class Ingest(Stage):
    """Read, clean, deduplicate and split the text."""

    name = "ingest"
    form: ClassVar[str] = "text"
    config: IngestConfig

    def fingerprint(self) -> Any:
        self.settled()
        return fingerprint(self.config)

    def modules(self) -> list[str]:
        return [__name__, *sorted({type(source).__module__ for source in self.settled().sources})]

    def settled(self) -> Settled:
        """The sources; `UsageError` where one holds chats and text is wanted, or the other way round."""
        settled = settle(self.config.sources, self.config.reading, self.config.offline_ok)
        for source in settled.sources:
            if source.form != self.form:
                raise UsageError(f"source '{source.name}' holds {source.form}, and {self.form} is wanted here")
        return settled

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        return ingest(self.config, out, context.progress.note)
