"""The model card: what the manifests know, in words that the Hugging Face hub reads."""

from collections.abc import Mapping
from typing import Any

import yaml

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
said = [{"role": "user", "content": "Hello"}]
ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```

`trust_remote_code` runs the Python files of this folder: the library's own modules, flattened, in plain torch. They \
cache nothing; the library is faster."""
LIMITS = """A small model that writes on in the manner of its text. It states falsehoods as fluently as facts, and \
nothing was done to keep it from saying what is harmful."""


def model_card(manifest: Mapping[str, Any], text: Mapping[str, Any] | None, results: Mapping[str, Any] | None) -> str:
    """README.md of an exported folder.

    manifest: of the mixture; text: what ingestion told; results: what the evaluation told. What is no longer there is
    said to be missing.
    """
    licences = sorted({source["licence"] for source in (text or {}).get("sources", ())})
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["nano_think"]}
    # The hub knows licences by short names, and a mixture of texts has none of them.
    about = head | {"license": "other", "license_name": "see-the-training-text"} if licences else head
    parts = [f"---\n{yaml.safe_dump(about, sort_keys=True)}---\n", "# nano_think mixture", _size(manifest)]
    parts += ["## Use", USE, "## Quality", _quality(results), "## Training text", _text(text)]
    parts += ["## Limits", LIMITS, "## Origin", _origin(manifest)]
    return "\n\n".join(parts) + "\n"


def _size(manifest: Mapping[str, Any]) -> str:
    sizes, config = manifest["summary"]["parameters"], manifest["config"]
    space, members = config["space"], ", ".join(name.replace("_", "-") for name in config["members"])
    table = "\n".join(f"| {name.replace('_', '-')} | {count:,} |" for name, count in sizes.items())
    return (
        f"Experts of different kinds ({members}) over one token table, mixed token by token by a router. Width "
        f"{space['width']}, window {space['window']} tokens, seed {config['seed']}.\n\n"
        f"| part | parameters |\n|---|---|\n{table}"
    )


def _quality(results: Mapping[str, Any] | None) -> str:
    if not results:
        return "Not measured, or the evaluation is no longer beside the model."
    rows = {"mixture": results["bits_per_byte"], **results["experts"], "plain average": results["uniform"]}
    if results.get("dense") is not None:
        rows["dense control of equal parameters and training FLOPs"] = results["dense"]
    table = "\n".join(f"| {name.replace('_', '-')} | {value:.3f} |" for name, value in rows.items())
    count = f"{results['documents']:,} held-out documents ({results['bytes']:,} bytes), memory off, one training"
    return f"Bits per byte of {count}; lower is better.\n\n| model | bits per byte |\n|---|---|\n{table}"


def _text(text: Mapping[str, Any] | None) -> str:
    if not text:
        return "The record of the training text is no longer beside the model."
    rows = [
        f"| {one['name']} | {one['domain']} | {one['documents']:,} | {one['bytes']:,} | {one['licence']} "
        f"| {one['origin']} |"
        for one in text["sources"]
    ]
    return "\n".join(["| source | domain | documents | bytes | licence | origin |", "|---|---|---|---|---|---|", *rows])


def _origin(manifest: Mapping[str, Any]) -> str:
    made = manifest.get("made_by", {})
    inputs = "\n".join(f"| {name} | {one['key']} | {one['digest']} |" for name, one in manifest["inputs"].items())
    return (
        f"Artifact `{manifest['stage']}/{manifest['key']}`, digest `{manifest['digest']}`, finished "
        f"{manifest.get('finished', 'at an unknown time')} by nano_think {made.get('nano_think', '?')}.\n\n"
        f"| made from | key | digest |\n|---|---|---|\n{inputs}"
    )
