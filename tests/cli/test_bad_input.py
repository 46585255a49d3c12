"""Bad input: one line that says what, where and what to do; the right exit code; never a traceback."""

import gzip
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

GOOD = '{"text": "a good line", "source": "s", "id": "1"}\n'


def one_line(told, code, *words):
    """Assert that a command left with `code` and said the words in one line."""
    assert told.code == code, told
    assert told.err.startswith("nano-think: error: ") and told.err.count("\n") == 1, told.err
    assert "Traceback" not in told.err
    for word in words:
        assert str(word) in told.err, told.err


BAD_FILES = {
    "missing": (None, ["bad.jsonl"]),
    "empty": (b"", ["bad.jsonl"]),
    "blank lines": (b"\n\n", ["bad.jsonl"]),
    "not UTF-8": (GOOD.encode() + '{"text": "caf\xe9"}\n'.encode("latin-1"), ["bad.jsonl:2", "UTF-8"]),
    "malformed": (GOOD.encode() * 2 + b'{"text": "cut\n', ["bad.jsonl:3"]),
    "no text": (GOOD.encode() + b'{"txt": "a"}\n', ["bad.jsonl:2", "text"]),
    "text of another type": (b'{"text": 3}\n', ["bad.jsonl:1", "text"]),
    "a list": (b'["a"]\n', ["bad.jsonl:1"]),
    "not gzip": (b"plain", ["bad.jsonl.gz"]),
    "cut gzip": (gzip.compress(GOOD.encode() * 99)[:40], ["bad.jsonl.gz"]),
    "binary": (bytes(range(256)), ["bad.jsonl:1"]),
}


def bad_file(folder, name):
    content, words = BAD_FILES[name]
    path = folder / ("bad.jsonl.gz" if "gzip" in name else "bad.jsonl")
    if content is not None:
        path.write_bytes(content)
    return path, words


@pytest.mark.parametrize("name", BAD_FILES)
def test_eval_names_the_bad_file_and_line(nano_run, say, tmp_path, name):
    """Exit 3 with file and line."""
    path, words = bad_file(tmp_path, name)
    one_line(say("eval", "--data", path, "--json", "--root", nano_run.root), 3, *words)


def test_eval_leaves_bad_lines_out_when_asked(nano_run, say, tmp_path):
    """--bad-lines skip scores the good ones."""
    path, _ = bad_file(tmp_path, "malformed")
    told = say("eval", "--data", path, "--bad-lines", "skip", "--json", "--root", nano_run.root)
    assert told.code == 0 and told.json["documents"] == 2


def test_run_names_the_bad_file_and_line(commands):
    """The same through Prefect: its flow and its tasks hide neither kind nor words of an error."""
    path, words = bad_file(commands.folder, "not UTF-8")
    done = commands("run", "--preset", "nano", "--sources", f"jsonl:{path}", "--root", "root")
    assert done.returncode == 3
    assert words[0] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "prefect" not in done.stderr.lower()
    assert commands.processes() == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rnu"], 2, ["unknown verb 'rnu'", "Did you mean 'run'?"]),
        (["run", "--preset", "nono"], 2, ["unknown preset 'nono'", "Did you mean 'nano'?"]),
        (["run", "--preset=nono"], 2, ["unknown preset 'nono'"]),
        (["run", "--sed", "3"], 2, ["--sed", "Did you mean '--seed'?"]),
        (["run", "--space.widht", "3"], 2, ["--space.widht", "Did you mean '--space.width'?"]),
        (["run", "--seed", "many"], 2, ["--seed", "many"]),
        (["run", "--preset"], 2, ["--preset"]),
        (["run", "stray"], 2, ["stray"]),
        (["run", "--compute.device", "cudda"], 2, ["cudda", "cuda"]),
        (["run", "--preset", "nano", "--space.width", "1"], 2, ["width", "wanted at least 2, got 1"]),
        (["run", "--preset", "nano", "--pretrain.tokens", "-5"], 2, ["tokens", "wanted at least 1"]),
        (["run", "--members", "transfomer"], 2, ["transfomer", "Did you mean 'transformer'?"]),
        (["run", "--sources", "sarter"], 2, ["unknown source 'sarter'", "Did you mean 'starter'?"]),
        (["run", "--sources", "jsonl:/nowhere/*.jsonl"], 3, ["/nowhere/*.jsonl"]),
        (["run", "--config", "nowhere.yaml"], 2, ["nowhere.yaml", "no such configuration file"]),
        (["generate"], 2, ["--prompt"]),
        (["generate", "--promt", "a"], 2, ["--promt", "--prompt"]),
        (["eval"], 2, ["--data"]),
        (["generate", "--prompt", "a", "--root", "nowhere"], 2, ["no finished model", "nano-think run --root nowhere"]),
        (["eval", "--data", "a.jsonl", "--root", "nowhere"], 2, ["no finished model"]),
        (["generate", "--prompt", "a", "--model", "nowhere"], 2, ["nowhere", "no such folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_named_with_the_nearest_right_one(say, tmp_path, monkeypatch, arguments, code, words):
    """Exit 2 for what cannot be used, 3 for what cannot be read."""
    monkeypatch.chdir(tmp_path)
    one_line(say(*arguments), code, *words)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("router.model.n-heads", "0", "at least 1"),
        ("router.model.n-heads", "-1", "at least 1"),
        ("router.model.n-heads", "3", "a divisor of the width 32"),
        ("router.model.latent", "0", "at least 1"),
        ("router.model.rotated", "0", "an even width of at least 2"),
        ("router.model.rotated", "3", "an even width of at least 2"),
        ("experts.transformer.n-heads", "0", "at least 1"),
        ("experts.transformer.inner", "-1", "at least 1"),
        ("experts.diffuser.n-heads", "-2", "at least 1"),
        ("experts.diffuser.inner", "0", "at least 1"),
        ("experts.state-space.head-width", "0", "at least 1"),
        ("experts.state-space.taps", "0", "at least 1"),
        ("experts.state-space.inner", "-16", "at least 1"),
        ("experts.state-space.chunk", "0", "at least 1"),
        ("experts.state-space.n-state", "0", "at least 1"),
        ("experts.state-space.rank", "-1", "0 or more"),
        ("embedding.model.n-heads", "0", "at least 1"),
        ("embedding.model.n-layers", "-1", "0 or more"),
        ("router.expert-dropout", "2", "a chance from 0 to 1"),
        ("router.expert-dropout", "nan", "a chance from 0 to 1"),
        ("router.entropy", "-1", "0 or more"),
        ("router.max-epochs", "0", "a number above 0"),
        ("router.max-epochs", "-1", "a number above 0"),
        ("router.max-epochs", "inf", "a number above 0"),
        ("router.joint-tokens", "-5", "0 or more"),
        ("router.cache-bytes", "-1", "0 or more"),
        ("memory.max-entries", "0", "at least 1"),
        ("memory.max-entries", "-5", "at least 1"),
        ("memory.fit-tokens", "0", "at least 1"),
        ("evaluate.max-tokens", "0", "at least 1"),
        ("evaluate.sample-tokens", "0", "at least 1"),
        ("ingest.max-bytes-per-source", "0", "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(say, tmp_path, monkeypatch, flag, value, wanted):
    """Exit 2 with the place of the setting, what was wanted and what was got."""
    monkeypatch.chdir(tmp_path)
    place, _, name = flag.rpartition(".")
    got = f"{float(value):g}" if value in {"nan", "inf"} else value
    told = say("plan", "--preset", "nano", f"--{flag}", value)
    one_line(told, 2, f"{place}: ", f"{name.replace('-', '_')}: wanted {wanted}, got {got}")
    assert "our own mistake" not in told.err and not list(tmp_path.iterdir())


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "--sources", LONG], 2),
        (["run", "--sources", "../kjv"], 2),
        (["run", "--sources", "CON"], 2),
        (["run", "--sources", "/etc"], 2),
        (["run", "--sources", f"tinystories:{LONG}"], 2),
        (["run", "--sources", f"jsonl:{LONG}"], 3),
        (["run", "--preset", f"../{LONG}"], 2),
        (["run", "--config", LONG], 2),
        (["run", "--root", LONG], 5),
        (["generate", "--prompt", "a", "--model", LONG], 2),
        (["generate", "--prompt", "a", "--root", LONG], 2),
        (["run", "--sources", "\x1b[2Jkjv"], 2),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_names_that_cannot_be_names_are_told(say, tmp_path, monkeypatch, arguments, code):
    """Too long, a path, a device, an escape sequence: one line, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    told = say(*arguments)
    one_line(told, code)
    assert "\x1b" not in told.err and "our own mistake" not in told.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sed: 3", ["unknown key 'sed'", "Did you mean 'seed'?"]),
        ("space: {widht: 3}", ["unknown key 'space.widht'", "Did you mean 'width'?"]),
        ("space: {width: wide}", ["space.width", "'wide'"]),
        ("space: {width: 1}", ["width", "at least 2"]),
        ("pretrain:\n  tokens: [1\n", ["my.yaml:3", "not YAML"]),
        ("seed: 1\n\tspace: 2\n", ["my.yaml:2", "not YAML"]),
        ("- a\n- b\n", ["wanted a mapping", "list"]),
        ("1: 2", ["1: wanted", "strings"]),
        (b"seed: \xff", ["UTF-8"]),
    ],
    ids=["unknown", "unknown inside", "type", "value", "YAML", "tab", "list", "number as key", "not UTF-8"],
)
def test_wrong_configuration_file_is_named(say, tmp_path, text, words):
    """Exit 2 with the file's name, and the line where there is one."""
    file = tmp_path / "my.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    one_line(say("run", "--preset", "nano", "--config", file, "--print-config"), 2, "my.yaml", *words)


@pytest.mark.parametrize("verb", ["generate", "eval"])
@pytest.mark.parametrize("stage", ["router", "memory"])
def test_damaged_model_is_refused(copy, nano_run, say, tmp_path, verb, stage):
    """One flipped bit in the weights or in the memory: exit 4 naming the file."""
    name = {"router": "model.safetensors", "memory": "store.safetensors"}[stage]
    file = copy / nano_run.folder(stage).relative_to(nano_run.root) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (tmp_path / "x.jsonl").write_text(GOOD)
    more = ["--prompt", "a"] if verb == "generate" else ["--data", tmp_path / "x.jsonl"]
    one_line(say(verb, *more, "--root", copy), 4, file, "sha256")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_model_without_one_of_its_files_is_refused(copy, nano_run, say, name):
    """Exit 4 naming what is missing."""
    file = copy / nano_run.folder("router").relative_to(nano_run.root) / name
    file.unlink()
    one_line(say("generate", "--prompt", "a", "--root", copy), 4, file, "missing")


def test_folder_that_is_no_model_is_refused(nano_run, say, tmp_path):
    """Another stage's artifact is exit 2, a folder without a manifest exit 4."""
    one_line(say("generate", "--prompt", "a", "--model", nano_run.folder("tokens")), 2, "'tokens'", "'router'")
    one_line(say("generate", "--prompt", "a", "--model", tmp_path), 4, tmp_path, "manifest.json")


HOLDER = """
import sys, pathlib
from nano_think.core.files import lock
with lock(pathlib.Path(sys.argv[1]) / ".lock", "root"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_run_on_a_root_in_use_is_refused(say, tmp_path):
    """Exit 6 at once, naming the process that holds it; when that is gone the root is free."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        one_line(say("run", "--preset", "nano", "--root", tmp_path), 6, tmp_path, f"process {holder.pid}")
        holder.kill()
    from nano_think.stages.session import hold

    with hold(tmp_path):
        pass


def test_root_that_is_a_file_is_refused(say, tmp_path):
    """Exit 5 naming it."""
    (tmp_path / "file").write_text("")
    one_line(say("run", "--preset", "nano", "--root", tmp_path / "file"), 5, tmp_path / "file", "--root")
    one_line(say("run", "--preset", "nano", "--root", tmp_path / "file" / "below"), 5, "file", "--root")


def test_root_that_cannot_be_written_is_refused(say, tmp_path, monkeypatch):
    """Exit 5 naming it. (Root may write everywhere, so the refusal is made here.)"""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    one_line(say("run", "--preset", "nano", "--root", tmp_path / "root"), 5, tmp_path / "root", "Permission denied")


def test_full_disk_is_told(say, tmp_path, monkeypatch):
    """Exit 5 naming the place."""

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    one_line(say("run", "--preset", "nano", "--root", tmp_path / "root"), 5, tmp_path / "root", "no space left")


def test_disk_that_is_nearly_full_is_told_before_anything_begins(say, tmp_path, monkeypatch):
    """Exit 5 with what is free and what is wanted: the stores of Prefect and MLflow would not say it."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    one_line(say("run", "--preset", "nano", "--root", tmp_path / "root"), 5, "no space left", "3,000,000 bytes free")


def test_our_own_mistake_is_one_line_and_debug_shows_it_whole(say, monkeypatch):
    """Exit 1; the traceback is there for whoever asks."""

    def broken(_):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("nano_think.cli.generate.main", broken)
    one_line(say("generate"), 1, "our own mistake", "ZeroDivisionError: oh", "--debug")
    told = say("generate", "--debug")
    assert told.code == 1 and "Traceback" in told.err


def test_reader_that_leaves_is_no_error(nano_run):
    """`nano-think generate ... | head -c 1` ends in silence."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "nano_think", "generate", "--prompt", "a", "--root", str(nano_run.root)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=600)
    os.close(write)
    assert not re.search("Traceback|error|Broken", done.stderr), done.stderr
    assert done.returncode == 0
