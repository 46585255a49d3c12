"""lm-eval reads our models: the same likelihoods as ours, from its own command line too."""

import json
import os
import subprocess
import sys

import pytest
import torch
from lm_eval.api.instance import Instance

from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.harness import TASKS, NanoThinkLM
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.chat import ChatShape, build_chat
from nano_think.models.checkpoint import save_mixture, save_model
from tests.export.test_folder import TEXT, made_model
from tests.perturbation import randomise_zeros
from tests.tiny import WIDTH, tiny_config

PAIRS = [("In the beginning", " was the word"), ("", "the word"), ("the word", " cats"), ((TEXT * 3).strip(), " naïve")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny mixture as a router artifact holds it."""
    out = tmp_path_factory.mktemp("model")
    model, shape, _ = made_model(out)
    save_mixture(out, model, shape)
    return out


@pytest.fixture(scope="module")
def lm(folder):
    return NanoThinkLM(path=str(folder), batch_size=3)


def requests(kind, rows):
    return [Instance(request_type=kind, doc={}, arguments=row, idx=n) for n, row in enumerate(rows)]


def plainly(lm, context, continuation):
    """ln p of each token after one long row, one token at a time."""
    ids = [lm.tokenizer.bos, *context, *continuation]
    total = 0.0
    for place in range(len(ids) - len(continuation), len(ids)):
        first = max(0, len(ids) - lm.window - 1)
        row = torch.tensor([ids[first:place]])
        with torch.inference_mode():
            total += lm.model.logits(lm.model(row))[0, -1].log_softmax(-1)[ids[place]].item()
    return total


def test_likelihoods_are_ours(lm):
    """In batches of different lengths, with an empty context, and beyond the window."""
    told = lm.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for (context, continuation), (log_p, _) in zip(PAIRS, told, strict=True):
        whole = lm.tok_encode(context + continuation)
        split = len(lm.tok_encode(context))
        assert log_p == pytest.approx(plainly(lm, whole[:split], whole[split:]), abs=1e-3)


def test_a_chat_model_is_read_too(folder, tmp_path):
    """One with a body of its own, by the same tokens."""
    for file in folder.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = Tokenizer.load(tmp_path)
    size = tokenizer.vocab_size
    shape = ChatShape(
        width=WIDTH, vocabulary=size, window=64, start_token=tokenizer.bos, backbone=tiny_config("transformer"),
    )  # fmt: skip
    torch.manual_seed(0)
    head = LanguageHead(normalise_table(torch.randn(size, WIDTH)), torch.zeros(size))
    save_model(tmp_path, randomise_zeros(build_chat(shape, head)), shape)
    chat = NanoThinkLM(path=str(tmp_path), batch_size=3)
    for (context, continuation), (log_p, _) in zip(
        PAIRS[:3], chat.loglikelihood(requests("loglikelihood", PAIRS[:3]), disable_tqdm=True), strict=True
    ):
        whole, split = chat.tok_encode(context + continuation), len(chat.tok_encode(context))
        assert log_p == pytest.approx(plainly(chat, whole[:split], whole[split:]), abs=1e-3)
    (said,) = chat.generate_until(requests("generate_until", [("the word", {"max_gen_toks": 3})]))
    assert said


def test_of_a_continuation_longer_than_the_window_its_end_is_read(lm):
    ids = lm.tok_encode(TEXT * 3)
    assert len(ids) > lm.window
    ((log_p, _),) = lm._loglikelihood_tokens([(("", ""), ids[:1], ids[1:])])
    assert log_p == pytest.approx(plainly(lm, ids[: -lm.window], ids[-lm.window :]), abs=1e-2)


def test_whole_texts_are_read_once(lm):
    """Every token counts once, however many windows it takes."""
    (short,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [("the word",)]))
    assert short == pytest.approx(plainly(lm, [], lm.tok_encode("the word")), abs=1e-3)
    (long,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(TEXT,)]))
    assert long < short


def test_greedy_text_ends_before_a_stop(lm):
    rows = [("the word", {"until": ["\n"], "max_gen_toks": 8}), ("In the", {"until": [], "max_gen_toks": 3})]
    told = lm.generate_until(requests("generate_until", rows))
    assert len(told) == 2 and "\n" not in told[0]
    assert told == lm.generate_until(requests("generate_until", rows))


@pytest.mark.slow
def test_lm_evals_own_command_runs_local_lambada_and_blimp(folder, tmp_path):
    """`lm_eval --model nano_think`, without the network."""
    lambada, blimp = tmp_path / "lambada.jsonl", tmp_path / "blimp.jsonl"
    lambada.write_text("".join(json.dumps({"context": "In the", "continuation": "word"}) + "\n" for _ in range(4)))
    pair = {"sentence_good": "the word was", "sentence_bad": "was word the"}
    blimp.write_text("".join(json.dumps(pair) + "\n" for _ in range(4)))
    command = [
        sys.executable, "-m", "lm_eval", "--model", "nano_think", "--model_args", f"path={folder}",
        "--tasks", f"{TASKS / 'lambada_local.yaml'},{TASKS / 'blimp_local.yaml'}",
        "--metadata", json.dumps({"lambada": str(lambada), "blimp": str(blimp)}),
        "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results*.json")
    told = json.loads(results.read_text())["results"]
    assert told.keys() == {"lambada_local", "blimp_local"}
    assert told["blimp_local"]["acc,none"] in (0.0, 1.0)
