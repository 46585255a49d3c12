"""`nano-think completion SHELL`: a script that completes verbs, flags, presets and stages."""

import contextlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.cli.verbs import all_verbs

FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")
STAGE_FLAGS = ("--from", "--until", "--only", "--force")
BASH = """\
# nano-think: completion for bash. Put this into ~/.bash_completion, or: source <(nano-think completion bash)
_nano_think() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}" words="" last="" i
    for ((i = 2; i < COMP_CWORD; i++)); do
        [[ "${{COMP_WORDS[i]}}" == --* ]] && last="${{COMP_WORDS[i]}}"
    done
    if ((COMP_CWORD == 1)); then
        words="{verbs}"
    elif [[ "$word" != -* && "$last" == --preset && "${{COMP_WORDS[COMP_CWORD-1]}}" == --preset ]]; then
        words="{presets}"
    elif [[ "$word" != -* && " {stage_flags} " == *" $last "* ]]; then
        words="{stages}"
    else
        case "$verb" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ ${{#COMPREPLY[@]}} -eq 0 && "$word" != -* ]] && COMPREPLY=($(compgen -f -- "$word"))
    return 0
}}
complete -F _nano_think nano-think"""


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """A script for your shell; it is made from what each verb's help says, so it is as new as the installation."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Which shell."""


def main(arguments: list[str]) -> int:
    from nano_think.stages.pipeline import load, plan, presets

    shell = parse_arguments(CompletionArguments, "completion", arguments).shell
    words = {verb: _words(verb) for verb in all_verbs()}
    names, stages = sorted(presets()), list(plan(load("micro")))
    print(_fish(words, names, stages) if shell == "fish" else _bash(words, names, stages, zsh=shell == "zsh"))
    return 0


def _words(verb: str) -> list[str]:
    """The flags of a verb or, if it only hands over, the verbs below it, off its help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        all_verbs()[verb](["--help"])
    text = said.getvalue()
    below = re.search(r"^verbs:\n((?:  .*\n)+)", text, re.MULTILINE)
    if below:
        return re.findall(r"^  (\w+)", below[1], re.MULTILINE)
    return sorted(set(FLAG.findall(text)))


def _bash(words: dict[str, list[str]], presets: list[str], stages: list[str], zsh: bool) -> str:
    cases = [f'            {verb}) words="{" ".join(flags)}" ;;' for verb, flags in words.items()]
    script = BASH.format(
        verbs=" ".join(words), presets=" ".join(presets), stages=" ".join(stages), cases="\n".join(cases),
        stage_flags=" ".join(STAGE_FLAGS),
    )  # fmt: skip
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def _fish(words: dict[str, list[str]], presets: list[str], stages: list[str]) -> str:
    lines = ["# nano-think: completion for fish. Put this into ~/.config/fish/completions/nano-think.fish"]
    lines.append(f"complete -c nano-think -n __fish_use_subcommand -a '{' '.join(words)}'")
    values = {"--preset": presets, **dict.fromkeys(STAGE_FLAGS, stages)}
    for verb, flags in words.items():
        seen = f"complete -c nano-think -n '__fish_seen_subcommand_from {verb}'"
        for flag in flags:
            told = f" -x -a '{' '.join(values[flag])}'" if flag in values else ""
            lines.append(f"{seen} -l {flag[2:]}{told}" if flag.startswith("--") else f"{seen} -a {flag}")
    return "\n".join(lines)
