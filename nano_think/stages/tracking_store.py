"""MLflow's store of an artifact root: a SQLite file, ./mlflow.db for the default root, so that a bare `mlflow ui` finds
it, ROOT/mlflow.db for others. One that cannot be used is told in one line.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano_think.core.errors import StorageError
from nano_think.core.files import lock

EXPERIMENT, DEFAULT_ROOT = "nano_think", Path("artifacts")
# How long another program may write to the store before it counts as locked.
BUSY_SECONDS = 20.0


def store_path(root: Path) -> Path:
    """Where the SQLite file of an artifact root lies."""
    default = root.resolve() == DEFAULT_ROOT.resolve()
    return (Path("mlflow.db") if default else root / "mlflow.db").resolve()


def make_store(root: Path) -> tuple[Any, str, str]:
    """The client, the address and the experiment of a root's store, made if it is missing.

    It is made once, under a lock, in WAL mode: two processes that make it at the same time would destroy it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    # After the import, which sets it up to tell of every migration.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    path = store_path(root)
    uri = f"sqlite:///{path}"
    with opening(root), lock(path.with_name(".mlflow.lock"), f"the MLflow store {path}", wait=120):
        fresh = not path.exists()
        if not fresh:
            _probe(path)
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        artifacts = (root / "mlflow").resolve()
        known = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts.as_uri())
        if fresh:
            _use_wal(path)
    return client, uri, known


@contextlib.contextmanager
def opening(root: Path) -> Iterator[None]:
    """What SQLite, SQLAlchemy and MLflow have against the store of `root` becomes a `StorageError` of one line."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = store_path(root)
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError, CommandError, MlflowException) as error:
        said = str(error).strip().partition("\n")[0]
        if "locked" in said:
            raise StorageError(f"{path}: another program keeps MLflow's store locked; end it and run again") from None
        raise StorageError(f"{path}: MLflow's store cannot be used ({said}); move it away and run again") from None


def _probe(path: Path) -> None:
    """Read and lock the file as a writer does: MLflow itself would try again and again, and print why."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA schema_version")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _use_wal(path: Path) -> None:
    """Write-ahead logging sticks in the file, makes commits two to four times cheaper and lets readers read."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
