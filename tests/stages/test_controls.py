"""The controls of a run: what they are fitted and trained on, what they are equal in, and where they are found."""

import dataclasses
import shutil
import signal
from collections.abc import Iterator

import pytest

from nano_think.core.config import to_dict
from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json
from nano_think.data.tokens import TokenSet
from nano_think.experts import EXPERTS, build_expert, count_parameters
from nano_think.models.checkpoint import build_mixture, load_mixture
from nano_think.models.embedder import load_head
from nano_think.stages import dense as dense_stage
from nano_think.stages.artifact import open_artifact
from nano_think.stages.calibration import CalibrationStage, find_controls
from nano_think.stages.dense import Dense, load_dense, mixture_cost
from nano_think.stages.mixture import RouterJob, joint_training_of, shape_of
from nano_think.stages.pipeline import load, plan
from nano_think.stages.stage import Context
from tests.conftest import NANO

STARTED = {"compute": {"threads": 1}}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The splits that are opened, in order."""
    splits: list[str] = []
    real = TokenSet.open.__func__

    def spy(cls, folder, split):
        splits.append(split)
        return real(cls, folder, split)

    monkeypatch.setattr(TokenSet, "open", classmethod(spy))
    return splits


def node(run, name: str):
    """A node of the run's plan, and the artifacts that it took."""
    found = plan(load("nano", STARTED))[name]
    return found.stage, {need: open_artifact(run.folder(need)) for need in found.needs}


class NoTraining:
    """Stands for a trainer: keeps what it was asked for."""

    def flops_per_token(self, objective, tokens, split, config):
        self.counted = split
        return 1000.0

    def train(self, objective, tokens, split, config, branch_name):
        self.split, self.config = split, config
        TokenSet.open(tokens.path, split)
        return {"training": {"tokens": config.tokens}}


def test_calibration_never_opens_the_test_split(nano_run, opened, tmp_path):
    """Static weights see the routing split, scales the validation split; made again, they are the same."""
    stage, inputs = node(nano_run, "calibration")
    assert isinstance(stage, CalibrationStage)
    stage.build(inputs, tmp_path, Context())
    assert opened == ["router", "validation"]
    again, first = (read_json(folder / "calibration.json") for folder in (tmp_path, nano_run.folder("calibration")))
    assert again["static"] == pytest.approx(first["static"], rel=1e-3)
    assert set(first["calibrations"]) == {
        *EXPERTS, "uniform", "static", "without_diffuser", "mixture", "dense"
    }  # fmt: skip


def test_dense_sees_what_experts_and_router_saw(nano_run, opened, tmp_path):
    """Their two splits and no other, with the experts' settings but for the tokens, which follow from the FLOPs."""
    (stage, inputs), trainer = node(nano_run, "dense"), NoTraining()
    assert isinstance(stage, Dense)
    summary = stage.fit(inputs, tmp_path, trainer)
    assert set(opened) == {"train+router", "train", "router"}
    assert trainer.counted == trainer.split == "train+router"
    settings = to_dict(load("nano", STARTED).pretrain)
    assert to_dict(trainer.config) | {"tokens": 0} == settings | {"tokens": 0}
    assert trainer.config.tokens * 1000.0 == pytest.approx(summary["mixture"]["flops"], rel=0.02)


def test_dense_of_a_real_run_is_equal_in_parameters_and_flops(nano_run):
    """To within 2%, and the head and the table are those of the mixture."""
    about = open_artifact(nano_run.folder("dense")).summary
    parts = open_artifact(nano_run.folder("router")).summary["parameters"]
    assert about["mixture"]["parameters"] == sum(parts[name] for name in (*EXPERTS, "router"))
    trained = [open_artifact(nano_run.folder(name)).summary for name in (*EXPERTS, "router")]
    # The diffuser's blocks begin where they are drawn to begin, which moves its count by some millionths.
    assert about["mixture"]["flops"] == pytest.approx(sum(one["flops"] for one in trained), rel=1e-4)
    assert about["parameters"] == pytest.approx(about["mixture"]["parameters"], rel=0.02)
    assert about["flops"] == pytest.approx(about["mixture"]["flops"], rel=0.02)
    assert about["embedding"] == open_artifact(nano_run.folder("embedding")).digest
    assert count_parameters(load_dense(open_artifact(nano_run.folder("dense")))) == about["parameters"]


def test_a_joint_training_is_part_of_what_the_control_may_cost(nano_run):
    stage, inputs = node(nano_run, "dense")
    assert isinstance(stage, Dense)
    job, head = stage.config, load_head(inputs["embedding"].path)
    train = dataclasses.replace(job.router.router, joint_tokens=2048)
    longer = dataclasses.replace(job, router=dataclasses.replace(job.router, router=train))
    one, two = (mixture_cost(each, inputs["tokens"], head, NoTraining()) for each in (job, longer))
    assert two == one | {"flops": one["flops"] + 1000.0 * joint_training_of(longer.router).whole_tokens(64)}


def test_dense_is_as_large_as_a_mixture_of_two_of_a_kind(nano_run):
    """A second transformer is another expert to the router, though of the same kind."""
    inputs = node(nano_run, "dense")[1]
    stage = plan(load("nano", STARTED, {"members": ("state_space", "transformer", "transformer_2")}))["dense"].stage
    assert isinstance(stage, Dense)
    job, head = stage.config, load_head(inputs["embedding"].path)
    experts = sum(count_parameters(build_expert(one.kind, one.expert, job.space.width)) for one in job.experts)
    shape = shape_of(job.router, inputs["tokens"], {one.name: one.expert for one in job.experts})
    router = count_parameters(build_mixture(shape, head).router)
    assert mixture_cost(job, inputs["tokens"], head, NoTraining())["parameters"] == experts + router
    assert len(shape.experts) == 3


def test_controls_are_found_beside_the_model_and_nowhere_else(nano_run, tmp_path):
    """A model folder that was taken away has none: its dense figure is null."""
    artifact = open_artifact(nano_run.folder("router"))
    model, _ = load_mixture(artifact.path)
    controls = find_controls(artifact, model)
    assert controls and controls.dense and len(controls.static) == len(EXPERTS)
    moved = shutil.copytree(artifact.path, tmp_path / "router" / artifact.key)
    assert find_controls(open_artifact(moved), model) is None
    shutil.copytree(nano_run.folder("calibration"), tmp_path / "calibration" / "x")
    alone = find_controls(open_artifact(moved), model)
    assert alone and alone.dense is None and "dense" in alone.calibrations


def test_a_damaged_shape_is_named(nano_run, tmp_path):
    folder = shutil.copytree(nano_run.folder("dense"), tmp_path / "dense")
    (folder / dense_stage.SHAPE).write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json: not the shape of a dense control"):
        load_dense(open_artifact(folder))


def test_controls_can_be_left_out():
    nodes = plan(load("nano", {"controls": "none"}))
    assert "dense" not in nodes
    assert all("dense" not in one.needs for one in nodes.values())
    assert "calibration" in nodes


def test_all_controls_are_every_router_and_a_second_transformer():
    """Each router is of its kind and else as the run's own, and what is compared waits for all of them."""
    config = load("nano", {"controls": "all"})
    nodes, plain = plan(config), plan(load("nano"))
    others = ["router_static", "router_mean", "router_token", "router_second"]
    assert sorted(nodes.keys() - plain.keys()) == sorted([*others, "transformer_2"])
    for name in others:
        job = nodes[name].stage.config
        assert isinstance(job, RouterJob) and nodes[name].stage.name == name
        assert job.seed == config.seed and job.router.train == config.router.train
        assert name in nodes["evaluate"].needs and name in nodes["calibration"].needs
        kind, members = job.router.model.kind, list(job.members)
        if name == "router_second":
            assert kind == config.router.model.kind and members == ["transformer_2", "state_space", "transformer"]
        else:
            assert name == f"router_{kind}" and tuple(members) == config.members
    one, two = (nodes[name].stage for name in ("transformer", "transformer_2"))
    assert to_dict(two.config) == to_dict(one.config) | {"number": 2} and two.kind == "transformer_2"
    assert to_dict(nodes["dense"].stage.config) == to_dict(plain["dense"].stage.config)


def test_no_second_transformer_without_a_diffuser_to_replace():
    nodes = plan(load("nano", {"controls": "all", "members": ["transformer", "state_space"]}))
    assert "transformer_2" not in nodes and "router_second" not in nodes and "router_static" in nodes


def test_joined_splits_stand_one_behind_the_other(nano_run):
    """Tokens and documents of both, offsets moved."""
    folder = nano_run.folder("tokens")
    whole, train, router = (TokenSet.open(folder, split) for split in ("train+router", "train", "router"))
    assert len(whole) == len(train) + len(router)
    row = {name: whole.documents[name][len(train.documents)].as_py() for name in ("offset", "tokens", "id")}
    last = {name: router.documents[name][0].as_py() for name in ("offset", "tokens", "id")}
    assert row == last | {"offset": len(train)}
    first = slice(row["offset"], row["offset"] + row["tokens"])
    assert (whole.tokens[first] == router.tokens[: row["tokens"]]).all()


@pytest.mark.slow
def test_dense_goes_on_after_an_interruption_and_ends_the_same(nano_run, commands, tmp_path):
    """Stopped in the middle of its training; the second run trains nothing else, and ends with the weights of a run
    that nobody has disturbed.
    """
    root = shutil.copytree(nano_run.root, tmp_path / "root")
    shutil.rmtree(root / "dense")
    process = commands.start(*NANO, "--root", root)
    for line in process.stderr:
        if line.startswith("dense: step"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    done = commands(*NANO, "--root", root)
    assert done.returncode == 0, done.stderr
    assert "dense: goes on from step" in done.stderr and "router: up to date" in done.stderr
    (made,) = (root / "dense").glob("*/dense.safetensors")
    assert made.read_bytes() == (nano_run.folder("dense") / made.name).read_bytes()


@pytest.mark.slow
def test_all_controls_have_their_rows(nano_run, commands, tmp_path):
    """Only what is new is trained; each row has figures, differences and costs."""
    root = shutil.copytree(nano_run.root, tmp_path / "root")
    done = commands(*NANO, "--root", root, "--controls", "all")
    assert done.returncode == 0, done.stderr
    assert "transformer: up to date" in done.stderr and "dense: up to date" in done.stderr
    (place,) = [one for one in (root / "report").glob("*/ablation.json") if "router_mean" in one.read_text()]
    told = read_json(place)
    rows = {row["scorer"]: row for row in told["rows"]}
    for name in ("router_static", "router_mean", "router_token", "router_second"):
        assert rows[name]["calibrated"] > 0 and rows[name]["against"]["dense"]["low"] < 1
        assert told["costs"][name]["parameters"] > 0 and told["costs"][name]["flops"] > 0
    assert told["costs"]["router_second"]["seconds"] != told["costs"]["mixture"]["seconds"]


@pytest.mark.slow
def test_experts_may_learn_with_their_router_at_the_end(nano_run, commands, tmp_path):
    """The mixture's experts are then others than those that were trained before it, and its head is the same."""
    root = shutil.copytree(nano_run.root, tmp_path / "root")
    done = commands(*NANO, "--root", root, "--router.joint-tokens", "1024", "--until", "router")
    assert done.returncode == 0, done.stderr
    plain = nano_run.folder("router")
    (folder,) = (one.parent for one in (root / "router").glob("*/manifest.json") if one.parent.name != plain.name)
    before, after = (load_mixture(one)[0].state_dict() for one in (plain, folder))
    assert open_artifact(folder).summary["joint"]["training"]["tokens"] == 1024
    assert all((before[name] == after[name]).all() for name in before if name.startswith("head."))
    assert all(
        any((before[name] != after[name]).any() for name in before if f"experts.{kind}." in name) for kind in EXPERTS
    )
