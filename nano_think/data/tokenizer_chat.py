"""Chats as ids: who speaks is told by special tokens, and what they say is always text.

    START USER system, blank line, question USER_END ASSISTANT answer ASSISTANT_END USER ...

A system message has no token of its own: it opens the next user message, as in nanochat.
"""

from collections.abc import Callable, Iterable, Mapping

from nano_think.core.errors import InputError

USER, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
CHAT = (USER, USER_END, ASSISTANT, ASSISTANT_END)
ROLES = ("system", "user", "assistant")

# transformers finds special tokens in the finished string, whoever wrote them, and nothing in a tokenizer's files can
# forbid it there and allow it to the template. So the template puts a zero-width space into those that were typed.
_TEMPLATE = (
    "{% macro plain(text) %}{% set ns = namespace(text=text) %}{% for name in [NAMES] %}"
    "{% set ns.text = ns.text | replace(name, '<|\u200b' + name[2:]) %}{% endfor %}{{ ns.text }}{% endmacro %}"
    "{{ 'START' }}{% set ns = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.system = ns.system + message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}{{ '<|user_start|>' + plain(ns.system + message.content) + '<|user_end|>' }}"
    "{% set ns.system = '' %}"
    "{% elif message.role == 'assistant' %}{{ '<|assistant_start|>' }}{% generation %}"
    "{{ plain(message.content) + '<|assistant_end|>' }}{% endgeneration %}"
    "{% else %}{{ raise_exception('role ' + message.role + ': wanted system, user or assistant') }}"
    "{% endif %}{% endfor %}"
    "{% if ns.system %}{{ raise_exception('a system message opens a user message, and none follows') }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)


def template(start: str) -> str:
    """The chat template (Jinja) that transformers and the servers built on it use."""
    names = ", ".join(f"'{name}'" for name in (start, *CHAT))
    return _TEMPLATE.replace("NAMES", names).replace("START", start)


def encode(
    messages: Iterable[Mapping[str, str]], encode_text: Callable[[str], list[int]], special: Mapping[str, int]
) -> tuple[list[int], list[bool]]:
    """(ids, mask) of {role, content} messages without the start token; the mask is true where the assistant speaks,
    its end token included. Raises `InputError` for what the template refuses too.
    """
    ids: list[int] = []
    mask: list[bool] = []
    system = ""
    for number, message in enumerate(messages, 1):
        role, content = _checked(number, message)
        if role == "system":
            system += content + "\n\n"
            continue
        first, last = (USER, USER_END) if role == "user" else (ASSISTANT, ASSISTANT_END)
        said = [*encode_text(system + content if role == "user" else content), special[last]]
        ids += [special[first], *said]
        mask += [False, *[role == "assistant"] * len(said)]
        system = "" if role == "user" else system
    if system:
        raise InputError("a system message opens a user message, and none follows it; add one")
    return ids, mask


def _checked(number: int, message: Mapping[str, str]) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InputError(f"message {number}: wanted the role {', '.join(ROLES[:-1])} or {ROLES[-1]}, got {role!r}")
    if not isinstance(content, str):
        raise InputError(f"message {number}: wanted a content that is text, got {type(content).__name__}")
    return role, content
