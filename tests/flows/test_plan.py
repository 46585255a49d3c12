"""`nano-think plan` and parts of a run, on the artifacts of a real one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.core.files import sha256
from nano_think.experts import EXPERTS
from nano_think.stages.pipeline import load, plan
from nano_think.stages.selection import descendants
from tests.conftest import NANO, PATIENCE

ROOT = Path(__file__).parents[2]
SETTINGS = tuple(word for word in NANO if word not in ("run", "--json"))
AFTER_ROUTER = {"router", "memory", "calibration", "evaluate", "report"}


def copy_code(folder):
    """A copy of this checkout's code."""
    for name in ("nano_think", "flows", "tasks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def edit(folder):
    """Let a function that the router alone uses compute something else."""
    file = folder / "nano_think" / "training" / "streams.py"
    code = file.read_text(encoding="utf-8")
    assert code.count("LEAST_REPEATS = 0.1\n") == 1
    file.write_text(code.replace("LEAST_REPEATS = 0.1\n", "LEAST_REPEATS = 0.1 + 1e-9\n"), encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout in which the router's code is another."""
    folder = copy_code(tmp_path_factory.mktemp("checkout"))
    edit(folder)
    return folder


@pytest.fixture
def root(nano_run, tmp_path):
    """A copy of the finished run, without the histories of its tools."""
    unwanted = shutil.ignore_patterns(".prefect", "mlflow*", ".mlflow*")
    return shutil.copytree(nano_run.root, tmp_path / "root", ignore=unwanted)


def planned(say, root, *more):
    told = say("plan", *SETTINGS, "--root", root, "--json", *more)
    assert told.code == 0, told.err
    return {one["name"]: one for one in told.json["stages"]}, told.json["run"]


def runs(stages):
    return {name for name, one in stages.items() if one["runs"]}


def test_plan_of_a_finished_run_has_nothing_to_do(say, nano_run):
    """All is fresh, and times and sizes of the trainings are known."""
    stages, run = planned(say, nano_run.root)
    assert {one["state"] for one in stages.values()} == {"fresh"}
    assert {name: one["key"] for name, one in stages.items()} == nano_run.told.json["artifacts"]
    assert run == {"stages": 0, "seconds": 0.0, "complete": True, "memory": None, "refused": None}
    assert all(one["seconds"] > 0 for one in stages.values())
    assert {name for name, one in stages.items() if one["memory"]} == {"embedding", *EXPERTS, "dense", "router"}


def test_plan_writes_nothing(say, nano_run, tmp_path):
    """Neither in a root that is there, nor where there is none, and whoever runs there is not in its way."""
    before = {path: path.stat().st_mtime_ns for path in nano_run.root.rglob("*")}
    planned(say, nano_run.root, "--pretrain.tokens", "9000")
    assert {path: path.stat().st_mtime_ns for path in nano_run.root.rglob("*")} == before
    planned(say, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_setting_of_one_expert_is_told_by_name(say, nano_run):
    """Another width inside the diffuser: it, the control that is to be equal to the mixture, and what follows."""
    stages, run = planned(say, nano_run.root, "--experts.diffuser.dropout", "0.1")
    assert runs(stages) == {"diffuser", "dense"} | AFTER_ROUTER
    (why,) = stages["diffuser"]["why"]
    assert (why["kind"], why["name"], why["was"], why["now"]) == ("config", "expert.dropout", 0.0, 0.1)
    assert any(why["name"] == "experts.diffuser.expert.dropout" for why in stages["dense"]["why"])
    assert run["complete"] and run["seconds"] > stages["diffuser"]["seconds"] and run["memory"] > 0


def test_plan_for_people(say, nano_run):
    """A line for each stage, with the reason, and one that sums up."""
    told = say("plan", *SETTINGS, "--root", nano_run.root, "--evaluate.sample-tokens", "5")
    line = next(line for line in told.out.splitlines() if line.startswith("evaluate "))
    assert "stale" in line and "evaluate.sample_tokens 16 -> 5" in line
    assert "2 of 13 stages would be made, in " in told.out


def test_dry_run_is_the_plan(say, nano_run):
    """And Prefect is not even imported."""
    more = ("--root", nano_run.root, "--from", "router", "--json")
    dry = say(*NANO, "--dry-run", *more)
    assert dry.json == say("plan", *SETTINGS, *more).json
    code = f"import sys; sys.argv = {['nano-think', *NANO, '--dry-run', '--root', str(nano_run.root)]!r}; "
    code += "from nano_think.cli.main import main; main(); print({'prefect', 'mlflow', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "roter"), "unknown stage 'roter'. Did you mean 'router'?"),
        (("--from", "router", "--until", "tokens"), "no stage is both after router and before tokens"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_wrong_stages_are_named(say, tmp_path, verb, arguments, words):
    """Exit code 2, one line, before anything is made."""
    told = say(verb, *SETTINGS, "--root", tmp_path / "root", *arguments)
    assert told.code == 2 and words in told.err and told.err.count("\n") == 1
    assert not (tmp_path / "root" / "ingest").exists()


def test_stage_whose_inputs_are_stale_is_refused(say, nano_run):
    """Exit code 4; the message names what is stale, and why."""
    told = say(*NANO, "--root", nano_run.root, "--only", "router", "--pretrain.tokens", "9000")
    assert told.code == 4
    assert "stale (train.tokens 60000 -> 9000)" in told.err and told.err.count("\n") == 1


def test_edited_function_of_the_router_is_named(nano_run, checkout):
    """Router and what follows from it are stale, because of that module, and nothing else."""
    done = in_checkout(checkout, "plan", *SETTINGS, "--root", nano_run.root, "--json")
    stages = {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])["stages"]}
    assert runs(stages) == AFTER_ROUTER == descendants(plan(load("nano")), ["router"])
    assert [(why["kind"], why["name"]) for why in stages["router"]["why"]] == [
        ("module", "nano_think.training.streams")
    ]
    assert ("waits", "router") in [(why["kind"], why["name"]) for why in stages["memory"]["why"]]


@pytest.mark.slow
def test_run_does_just_that(root, checkout):
    """The run makes what the plan said, or less: what comes out as it was makes nothing after it again."""
    before = {path: sha256(path) for path in root.glob("*/*/manifest.json")}
    done = in_checkout(checkout, *NANO, "--root", root)
    made = {line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line}
    assert {"router"} <= made <= AFTER_ROUTER
    assert {path: sha256(path) for path in before} == before


def start_in(checkout, *arguments):
    """The command line with the code of that checkout."""
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", "nano_think", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=checkout, env=environment, **pipes)


def in_checkout(checkout, *arguments):
    process = start_in(checkout, *arguments)
    out, err = process.communicate(timeout=PATIENCE * 280)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_damaged_stages_are_made_again_alone(root, nano_run, commands):
    """A flipped byte, a missing file and a torn manifest, each in another stage: these are made anew, as they were, and
    what was made of them stays.
    """
    stages = "tokens", "diffuser", "memory"
    places = {stage: root / nano_run.folder(stage).relative_to(nano_run.root) for stage in stages}
    before = {path: sha256(path) for path in root.glob("*/*/manifest.json")}
    files = [path for place in places.values() for path in place.rglob("*") if path.is_file()]
    whole = {path: sha256(path) for path in files if path.name != "manifest.json"}
    flip(max((path for path in whole if places["tokens"] in path.parents), key=lambda path: path.stat().st_size))
    (places["diffuser"] / "expert.safetensors").unlink()
    (places["memory"] / "manifest.json").write_text("{")
    done = commands(*NANO, "--root", root)
    assert done.returncode == 0, done.stderr
    made = {line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line}
    assert made == places.keys()
    assert {path: sha256(path) for path in whole} == whole
    changed = {path.parent for path, digest in before.items() if sha256(path) != digest}
    assert changed == set(places.values())


def flip(file):
    """Flip a bit of the last byte."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.slow
def test_code_that_is_edited_during_a_run_is_not_sealed_under_the_old_key(root, tmp_path):
    """A training that has not begun is refused with exit code 2 and the module's name; what is finished stays."""
    folder = copy_code(tmp_path / "checkout")
    words = [*NANO, "--root", root, "--force", "diffuser", "--router.train.tokens", "21000"]
    process = start_in(folder, *words)
    said = ""
    for line in process.stderr:
        said += line
        if "diffuser: step" in said:
            edit(folder)
            break
    _, rest = process.communicate(timeout=PATIENCE * 200)
    assert process.returncode == 2, said + rest
    assert "router: nano_think.training.streams: edited since this run began" in rest.splitlines()[-1]
    stages = {place.parent.parent.name for place in root.glob("*/*/manifest.json")}
    assert {"diffuser", "dense"} <= stages and len(list(root.glob("router/*/manifest.json"))) == 1
