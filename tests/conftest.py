"""What holds for every test: no network, no telemetry, torch left as it was, and fresh memory that holds NaN."""

import os
import sys
from collections.abc import Iterator

import pytest

# Set before any test module is imported, and inherited by every child process.
os.environ |= {
    "DO_NOT_TRACK": "true",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

THREADS = 2


@pytest.fixture(autouse=True)
def torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where torch is in use: the same seed and threads for every test, poisoned empties, and its switches put back."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    poison(torch, monkeypatch)
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    matmul = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.mkldnn.matmul.fp32_precision = matmul


def poison(torch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.empty and its kin return NaN, so that reading what was never written shows at once."""

    def poisoned(make):
        def empty(*args, **kwargs):
            made = make(*args, **kwargs)
            with torch.no_grad():
                return made.fill_(float("nan")) if made.is_floating_point() else made

        return empty

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


def refuse_skip(report) -> None:
    """Turn a skip into a failure where NANO_THINK_NO_SKIP=1: in CI a test that did not run has not passed."""
    if os.environ.get("NANO_THINK_NO_SKIP") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\n(NANO_THINK_NO_SKIP=1: a skipped test counts as a failure)"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    report = yield
    refuse_skip(report)
    return report
