"""The full pipeline: text in, a mixture that one can talk to and a report out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from prefect import Task, flow
from prefect.futures import PrefectFuture

from flows.attended import attended
from flows.parameters import Overrides, Preset, Select
from flows.run_page import publish
from nano_think.core.config import parse, to_dict
from nano_think.stages.artifact import Artifact
from nano_think.stages.outlook import ready
from nano_think.stages.pipeline import Node, load, load_code, plan, title
from nano_think.stages.pretrain import Pretrain
from nano_think.stages.router import RouterStage
from nano_think.stages.selection import Selection
from nano_think.stages.session import Session, open_session
from nano_think.stages.stage import Stage
from tasks.added import added
from tasks.calibration import calibration
from tasks.dense import dense
from tasks.embedding import embedding
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.memory import memory
from tasks.pretrain import pretrain
from tasks.report import report
from tasks.router import router
from tasks.tokenizer import tokenizer
from tasks.tokens import tokens

STAGES: tuple[Task[..., Artifact], ...] = (
    ingest, tokenizer, tokens, embedding, router, dense, calibration, memory, evaluate, report,
)  # fmt: skip
TASKS = {task.name: task for task in STAGES}
KINDS: dict[type[Stage], Task[..., Artifact]] = {Pretrain: pretrain, RouterStage: router}
"""The tasks of stages that a run may have several of."""


@flow(name="full-pipeline", flow_run_name="{preset}", validate_parameters=False, persist_result=False)
def full_pipeline(
    preset: Preset = "micro", overrides: Overrides = None, root: str = "artifacts", select: Select = None
) -> dict[str, Artifact]:
    """Run every stage of a preset, or those that `select` chooses, the experts at once; return the artifacts by stage.

    Args:
        preset: Which settings to start from.
        overrides: Settings laid over the preset, as in a configuration file.
        root: Folder that all artifacts go to.
        select: Names of stages under first, until, only or force; without any, all stages.
    """
    config, selection = load(preset, overrides or {}), parse(Selection, select or {}, "select")
    name = title(preset, config)
    nodes = plan(config, name)
    chosen = selection.choose(nodes)
    with open_session(Path(root), preset, config, selection.force) as opened, attended(opened) as session:
        given = ready(nodes, session.root, chosen)
        artifacts = given | walk({name: nodes[name] for name in chosen}, session, given)
        if artifacts.keys() == nodes.keys():
            session.finish(artifacts)
        publish(name, to_dict(config), session, artifacts)
    return artifacts


def walk(
    nodes: dict[str, Node], session: Session, given: Mapping[str, Artifact] = MappingProxyType({}),
    tasks: Mapping[str, Task[..., Artifact]] | None = None,
) -> dict[str, Artifact]:  # fmt: skip
    """Submit each node as soon as what it needs is there: the experts need nothing of each other.

    given: artifacts of nodes that are not among these. tasks: by the names of the nodes; the full pipeline's if none.
    """
    tasks, submitted = tasks or TASKS, dict[str, PrefectFuture]()
    context = replace(session.context, modules=load_code(nodes))
    for name, node in nodes.items():
        made = results({need: submitted[need] for need in node.needs if need in submitted})
        inputs = {need: made[need] if need in made else given[need] for need in node.needs}
        task = KINDS.get(type(node.stage)) or tasks.get(name, added)
        submitted[name] = task.submit(node.stage, inputs, session.root, context)
    return results(submitted)


def results(futures: dict[str, PrefectFuture]) -> dict[str, Artifact]:
    """The artifacts, once all of them have ended: one that fails leaves the others what they have made."""
    for future in futures.values():
        future.wait()
    return {name: future.result() for name, future in futures.items()}
