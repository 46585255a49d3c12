"""What every flow of ours does around its work."""

import contextlib
from collections.abc import Iterator

from prefect.runtime import flow_run

from flows.history import close_dead_runs
from flows.run_page import with_page
from flows.watch import watched
from nano_think.stages.session import Session


@contextlib.contextmanager
def attended(session: Session) -> Iterator[Session]:
    """For a block that holds the session's root: dead runs in it are closed, the run's page shows how far it is, and it
    ends when it is asked to.
    """
    close_dead_runs(session.root, flow_run.get_id())
    with watched():
        yield with_page(session)
