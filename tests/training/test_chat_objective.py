"""What is learned from a chat: what the assistant says, as the tokenizer's mask has it, and nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.training.objectives.chat import ChatObjective, Marks, said_by_assistant
from tests.tiny import START, draw_tokens, few, tiny_chat, tiny_mixture
from tests.tiny_training import MARKS

OPENS, ENDS, USER, USER_END = 1, 2, 3, 4
TEXT = st.lists(st.integers(5, 9), max_size=4)


def chat_of(turns: list[tuple[list[int], list[int]]]) -> tuple[list[int], list[bool]]:
    """Ids of a chat and the mask, written as the chat template has them."""
    ids, mask = [START], [False]
    for question, answer in turns:
        ids += [USER, *question, USER_END, OPENS, *answer, ENDS]
        mask += [False] * (len(question) + 3) + [True] * (len(answer) + 1)
    return ids, mask


@few(100)
@given(chats=st.lists(st.lists(st.tuples(TEXT, TEXT), max_size=3), min_size=1, max_size=4), cut=st.integers(0, 12))
def test_the_ids_tell_what_the_assistant_says(chats: list, cut: int):
    """Of packed chats, the first of them cut off in the middle of whatever it says."""
    rows = [chat_of(turns) for turns in chats]
    rows[0] = tuple(part[: max(1, len(part) - cut)] for part in rows[0])
    ids, mask = ([value for row in rows for value in row[part]] for part in (0, 1))
    found = said_by_assistant(torch.tensor([ids, ids]), Marks(START, OPENS, ENDS))
    assert found.tolist() == [mask, mask]


def test_nothing_else_is_learned():
    """What the user says changes the loss by what the assistant is told alone: other targets do not count."""
    model = tiny_chat()
    ids = torch.tensor([chat_of([([5, 6], [7, 8]), ([9], [5])])[0] + [START, START]])
    objective = ChatObjective(model, Marks(START, OPENS, ENDS))
    nll_BT = model.nll(model(ids[:, :-1]), ids[:, 1:])
    wanted = nll_BT[said_by_assistant(ids, objective.marks)[:, 1:]]
    torch.testing.assert_close(objective(ids, 0.0)["assistant"], wanted.mean())
    assert len(wanted) == objective.count_predicted(ids) == 5


def test_a_thawed_mixture_learns_everywhere():
    """Every expert and the router have a gradient; the frozen mixture's experts have none."""
    windows = draw_tokens(2, 13)
    windows[:, 1] = MARKS.opens
    for thawed in (True, False):
        model = tiny_mixture()
        ChatObjective(model.thaw() if thawed else model, MARKS)(windows, 0.0)["assistant"].backward()
        learned = {
            name for name, expert in model.experts.items() if any(p.grad is not None for p in expert.parameters())
        }
        assert learned == (set(model.names) if thawed else set())
        assert model.router.norm.weight.grad is not None
