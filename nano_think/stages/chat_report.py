"""What a chat run has made -> one page to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.config import Config
from nano_think.core.files import read_json, sha256, write_text
from nano_think.stages.chat_evaluate import RESULTS
from nano_think.stages.report import FORM, PAGE
from nano_think.stages.stage import Context, Inputs, Stage

SCORES = "scores.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReportJob(Config):
    """The report's configuration: what the run is called and all that it was told."""

    name: str
    config: dict[str, Any]


class ChatReport(Stage):
    """Write report.html, which needs nothing beside itself, and the scores as Markdown."""

    name = "chat_report"
    config: ChatReportJob

    def fingerprint(self) -> Any:
        return {file.name: sha256(file) for file in sorted(FORM.iterdir()) if file.suffix in (".css", ".html")}

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        # Drawing is slow to import, and it comes with the room.
        from nano_think.report.chat import ChatReportData, markdown, render_chat

        manifests = {name: artifact.manifest for name, artifact in inputs.items()}
        summaries = {name: manifest["summary"] for name, manifest in manifests.items()}
        data = ChatReportData(
            preset=self.config.name,
            created=max(manifest["finished"] for manifest in manifests.values()),
            results=read_json(inputs["chat_evaluate"].path / RESULTS),
            sources=summaries["chats"]["sources"],
            trainings={name: summary for name, summary in summaries.items() if "training" in summary},
            artifacts={name: {"key": one.key, "digest": one.digest} for name, one in inputs.items()},
            config=self.config.config,
        )
        write_text(out / PAGE, render_chat(data))
        write_text(out / SCORES, markdown(data))
        return {"page": PAGE, "scores": SCORES}
