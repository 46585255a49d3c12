"""Prefect's settings for what this project starts: quiet, no telemetry, its history under an artifact root."""

import os
from pathlib import Path

from nano_think.core.errors import storage

# A user's own account elsewhere has nothing to do with a run on this machine.
ELSEWHERE = ("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")


def quiet_settings(root: Path) -> dict[str, str]:
    """Environment variables for Prefect; makes its home under `root`, whatever the user's own settings say."""
    home = (root / ".prefect").resolve()
    with storage(home):
        home.mkdir(parents=True, exist_ok=True)
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_PLUGINS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }


def guarded(port: int) -> dict[str, str]:
    """Environment variables for a Prefect server of ours: no web page but its own may use its API from a browser."""
    return {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def own_environment() -> dict[str, str]:
    """This process's environment without what leads Prefect elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
