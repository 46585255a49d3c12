"""One stage, with what it needs: `prefect deployment run one-stage/one-stage -p stage=router`."""

from pathlib import Path

from prefect import flow

from flows.attended import attended
from flows.full_pipeline import walk
from flows.parameters import Overrides, Preset, StageName
from flows.run_page import publish
from nano_think.core.config import to_dict
from nano_think.stages.artifact import Artifact
from nano_think.stages.pipeline import load, plan, title
from nano_think.stages.selection import Selection
from nano_think.stages.session import open_session


@flow(name="one-stage", flow_run_name="{preset}-{stage}", validate_parameters=False, persist_result=False)
def one_stage(
    stage: StageName,
    preset: Preset = "micro",
    overrides: Overrides = None,
    root: str = "artifacts",
    force: bool = False,
) -> dict[str, Artifact]:
    """Make one stage, and first whatever it needs and is not up to date; return these artifacts by stage.

    Args:
        stage: A stage of the pipeline, or an expert.
        preset: Which settings to start from.
        overrides: Settings laid over the preset, as in a configuration file.
        root: Folder that all artifacts go to.
        force: Whether the stage is made again though it is up to date.
    """
    config = load(preset, overrides or {})
    name = title(preset, config)
    nodes = plan(config, name)
    chosen = Selection(until=(stage,), force=(stage,) if force else ()).choose(nodes)
    with (
        open_session(Path(root), f"{preset}-{stage}", config, [stage] if force else []) as opened,
        attended(opened) as session,
    ):
        artifacts = walk({name: nodes[name] for name in chosen}, session)
        if artifacts.keys() == nodes.keys():
            session.finish(artifacts)
        publish(name, to_dict(config), session, artifacts)
    return artifacts
