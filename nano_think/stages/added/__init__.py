"""Stages beside those that every pipeline has: one file here is one more, with its settings and its place in the graph.

The settings, the flags, the plan, the flow, the lineage and the form on Prefect's page grow from `ADDED`. The report
comes after all of them.
"""

from typing import ClassVar

from nano_think.core.config import Config
from nano_think.core.registry import Registry
from nano_think.stages.space import Job
from nano_think.stages.stage import Stage

ADDED: "Registry[type[AddedStage]]" = Registry("added stage", "nano_think.stages.added")


class AddedStage(Stage):
    """A stage that says itself where it belongs; registered under its `name`, and made in every run of the pipeline.

    One that trains inherits from this and from `TrainingStage`, and makes its own kind of `Job` in `planned`.
    """

    Settings: ClassVar[type[Config]]
    """What a user can set, under `added.NAME`; every setting has a default."""
    needs: ClassVar[tuple[str, ...]]
    """The stages whose artifacts it takes, by name."""

    @classmethod
    def planned(cls, settings: Config, job: Job) -> Stage:
        """The stage of a run. job: what a training needs beside its settings: shapes, seed, device and threads."""
        return cls(settings)
