"""The mixture, its memory and the test split -> figures, tables and samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.core.config import Config
from nano_think.core.errors import InputError
from nano_think.core.files import write_json
from nano_think.core.rng import branch
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.ablation import ablation
from nano_think.evaluation.bits_per_byte import score, summarise
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.routing import Routing, token_classes
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.evaluation.scratch import beyond_window
from nano_think.inference.engine import Engine
from nano_think.inference.request import Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.models.think import NanoThink
from nano_think.stages.calibration import load_controls, load_rivals
from nano_think.stages.memory import load_memories, load_on_device
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Context, Inputs, Stage

if TYPE_CHECKING:
    import pandas as pd

RESULTS, DOCUMENTS, TABLE, SAMPLES = "results.json", "documents.parquet", "table.parquet", "samples.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Config):
    """The final figures, on documents that nothing was trained or fitted on."""

    max_tokens: int = 200_000
    """Most tokens of the test split that are read (tokens)."""
    prompts: tuple[str, ...] = ("In the beginning", "def main():\n", "The city of ")
    """Beginnings of the samples in the report."""
    sample_tokens: int = 60
    """Length of each sample (tokens)."""

    def __post_init__(self) -> None:
        self.at_least(1, "max_tokens", "sample_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJob(Job):
    """The evaluation stage's configuration."""

    evaluate: EvaluateConfig


class Evaluate(Stage):
    """Score the test split with everything that is to be compared, and let the mixture speak."""

    name = "evaluate"
    config: EvaluateJob

    def modules(self) -> list[str]:
        stages = ("nano_think.stages.memory", "nano_think.stages.calibration", "nano_think.stages.dense")
        return [__name__, *stages, *expert_modules()]

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        job, tokens = self.config, TokenSet.open(inputs["tokens"].path, "test")
        if not len(tokens):
            raise InputError("the test split is empty; give more text or raise ingest.test_fraction")
        model = load_on_device(inputs["router"], job)
        documents = split_documents(tokens, job.evaluate.max_tokens, seed=0)
        controls = load_controls(inputs["calibration"], inputs.get("dense"), model, load_rivals(inputs))
        tokenizer, memories = Tokenizer.load(inputs["router"].path), load_memories(inputs["memory"])
        routing = Routing(model.names, token_classes(tokenizer))
        frame = score(model, documents, job.space.window, memories, controls=controls, watch=routing.add)
        results = summarise(frame, model.names)
        results |= {"ablation": ablation(frame, model.names), "routing": routing.figures()}
        results |= {"beyond_window": beyond_window(frame, CALIBRATED) or beyond_window(frame)}
        write_json(out / RESULTS, results)
        frame.to_parquet(out / DOCUMENTS)
        table_of(results).to_parquet(out / TABLE)
        write_json(out / SAMPLES, self._samples(model, tokenizer))
        return results

    def _samples(self, model: NanoThink, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        sampling = SamplingConfig(seed=branch(self.config.seed, "samples") % 2**31)
        engine, samples = Engine(model, tokenizer, self.config.space.window), []
        for prompt in self.config.evaluate.prompts:
            ids, most = tuple(tokenizer.encode_document(prompt)), self.config.evaluate.sample_tokens
            events = list(engine.stream(Request(prompt=ids, max_new_tokens=most, sampling=sampling)))
            tokens = [(event.token, event.weights) for event in events if event.token is not None]
            pieces = [{"text": tokenizer.decode([token]), "weights": list(weights)} for token, weights in tokens]
            about = {"prompt": prompt, "text": "".join(event.text for event in events), "tokens": pieces}
            samples.append(about | {"seed": sampling.seed, "temperature": sampling.temperature})
        return samples


def table_of(results: dict[str, Any]) -> "pd.DataFrame":
    """The figures as a long table: scorer, domain ("all" for the whole), bits per byte."""
    import pandas as pd

    rows = []
    for domain, part in [("all", results), *results["domains"].items()]:
        values = {**part["experts"], "uniform": part["uniform"], "mixture": part["bits_per_byte"]}
        values |= {"dense": part["dense"]} if part["dense"] is not None else {}
        rows += [{"scorer": name, "domain": domain, "bits_per_byte": value} for name, value in values.items()]
    for kind, memory in (results["memory"] or {}).items():
        for control in ("mixture", "shuffled"):
            name = f"mixture + {kind} memory" + (" (shuffled)" if control == "shuffled" else "")
            rows.append({"scorer": name, "domain": "all", "bits_per_byte": memory[control]})
    return pd.DataFrame(rows)
