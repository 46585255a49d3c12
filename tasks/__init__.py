"""The Prefect face of each stage: one file each, bodies of one statement.

Keys, caching and resuming are the stages' own: Prefect is told what happened, and decides nothing.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE

OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retries": 0}
