"""The full pipeline with its stages on a Dask cluster, whose machines share the folder of the artifacts.

DASK_SCHEDULER_ADDRESS names the scheduler; without it two workers are started on this machine. It needs the extra
`dask`. See docs/scaling.md.
"""

import os

from prefect_dask import DaskTaskRunner

from flows.full_pipeline import full_pipeline

ADDRESS = "DASK_SCHEDULER_ADDRESS"
# A stage waits for its training most of the time: several fit on a worker.
HERE = {"n_workers": 2, "threads_per_worker": 4, "dashboard_address": None}


def runner() -> DaskTaskRunner:
    """Hands tasks to the named cluster, or to one of its own that ends with the run."""
    address = os.environ.get(ADDRESS)
    return DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=HERE)


full_pipeline_on_dask = full_pipeline.with_options(
    name="full-pipeline-on-dask",
    task_runner=runner(),  # type: ignore[arg-type]
)
