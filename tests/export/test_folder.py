"""The exported folder: transformers reads the same ids and the same logits out of it, without the library."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from nano_think.core.errors import UsageError
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.experts import EXPERTS
from nano_think.export.folder import compare, write_folder
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.models.checkpoint import ModelShape, build_mixture
from nano_think.models.think import RouterConfig
from tests.perturbation import randomise_zeros
from tests.tiny import WIDTH, few, tiny_chat, tiny_config

TEXT = "In the beginning was the word, and 12 naïve cats said: don't! 漢字 🙂\n\tdef main(): return 0\n" * 20


def made_model(folder):
    """A tiny mixture with a tokenizer that was trained for it, whose files are in `folder`."""
    train_tokenizer(TokenizerConfig(vocab_size=320), iter([TEXT]), folder)
    tokenizer = Tokenizer.load(folder)
    shape = ModelShape(
        width=WIDTH, vocabulary=tokenizer.vocab_size, window=64, start_token=tokenizer.bos,
        router=RouterConfig(n_heads=2, latent=8, rotated=4), experts={name: tiny_config(name) for name in EXPERTS},
    )  # fmt: skip
    torch.manual_seed(0)
    table_VD = normalise_table(torch.randn(tokenizer.vocab_size, WIDTH))
    model = randomise_zeros(build_mixture(shape, LanguageHead(table_VD, torch.zeros(tokenizer.vocab_size)))).eval()
    return model, shape, tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model, its tokenizer, and the folder."""
    source, out = tmp_path_factory.mktemp("tokenizer"), tmp_path_factory.mktemp("made") / "folder"
    model, shape, tokenizer = made_model(source)
    write_folder(out, model, shape, source, tokenizer, "# A card\n")
    return model, tokenizer, out


@pytest.fixture(scope="module")
def read(made):
    """What transformers makes of the folder: model and tokenizer."""
    _, _, out = made
    loaded = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True).eval()
    return loaded, AutoTokenizer.from_pretrained(out, trust_remote_code=True)


def test_logits_are_ours(made, read):
    model, tokenizer, _ = made
    ids_1T = torch.tensor([tokenizer.encode_document(TEXT)[:60]])
    with torch.inference_mode():
        difference = read[0](ids_1T).logits - model.logits(model(ids_1T))
    assert difference.abs().max() < 1e-4


def test_comparison_says_so(made):
    model, tokenizer, out = made
    parity = compare(out, model, tokenizer)
    assert parity.same_ids and parity.logits < 1e-4


@few(1000)
@given(st.text(max_size=60))
def test_ids_are_ours(made, read, text):
    """Over all of Unicode, on a thousand strings."""
    assert read[1](text, add_special_tokens=False)["input_ids"] == made[1].encode(text)


def test_chats_are_ours(made, read):
    said = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "the word?"},
        {"role": "assistant", "content": "was"},
        {"role": "user", "content": "and?"},
    ]
    ids = read[1].apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == made[1].encode_chat(said, add_generation_prompt=True)[0]


def test_padding_on_either_side_changes_nothing(made, read):
    """Rows of different lengths in one batch: each says what it says alone."""
    model, tokenizer, _ = made
    short, long = tokenizer.encode_document("the word"), tokenizer.encode_document(TEXT)
    pad = [tokenizer.special["<|assistant_end|>"]] * 3
    with torch.inference_mode():
        wanted, n = model.logits(model(torch.tensor([short])))[0], len(short)
        for row, mask, place in (
            (pad + short, [0] * 3 + [1] * n, slice(3, None)),
            (short + pad, [1] * n + [0] * 3, slice(0, n)),
        ):
            ids_BT, mask_BT = torch.tensor([row, long[: n + 3]]), torch.tensor([mask, [1] * (n + 3)])
            got = read[0](ids_BT, attention_mask=mask_BT).logits[0, place]
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_generate_takes_the_likeliest(made, read):
    model, tokenizer, _ = made
    ids = tokenizer.encode_document("the word")
    told = read[0].generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False)[0].tolist()
    for _ in range(len(told) - len(ids)):
        with torch.inference_mode():
            ids.append(int(model.logits(model(torch.tensor([ids])))[0, -1].argmax()))
    assert told == ids


def test_labels_give_a_loss(made, read):
    ids_1T = torch.tensor([made[1].encode_document(TEXT)[:20]])
    out = read[0](ids_1T, labels=ids_1T)
    wanted = torch.nn.functional.cross_entropy(out.logits[0, :-1], ids_1T[0, 1:])
    torch.testing.assert_close(out.loss, wanted)


def test_folder_needs_nothing_of_ours(made):
    """A process that cannot import nano_think loads it."""
    code = (
        "import sys; sys.modules['nano_think'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(made[2])!r}, trust_remote_code=True)\n"
        "assert not [name for name in sys.modules if name.startswith('nano_think.')]\n"
        "print(sum(p.numel() for p in model.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(parameter.numel() for parameter in made[0].parameters())


def test_folder_holds_what_the_hub_reads(made):
    _, tokenizer, out = made
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in out.iterdir()
    }
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"][-1] == tokenizer.bos
    assert "{% generation %}" in json.loads((out / "tokenizer_config.json").read_text())["chat_template"]


def test_a_folder_in_use_is_left_alone(made):
    model, tokenizer, out = made
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(UsageError, match="not empty"):
        write_folder(out, model, ModelShape(width=1, vocabulary=1, window=1, start_token=0), out, tokenizer, "")
    assert sorted(path.name for path in out.iterdir()) == before


def test_a_chat_model_with_a_body_of_its_own_is_refused_in_one_line(say, monkeypatch, tmp_path):
    """Before anything is written."""
    opened = SimpleNamespace(artifact=SimpleNamespace(path=tmp_path / "sft"), model=tiny_chat(), shape=None)
    monkeypatch.setattr("nano_think.stages.opening.open_model", lambda *_: opened)
    told = say("export", "--out", tmp_path / "out")
    assert told.code == 2 and "wanted a mixture, got a chat model with a body of its own" in told.err
    assert len(told.err.splitlines()) == 1 and not (tmp_path / "out").exists()
