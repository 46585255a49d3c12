"""What a model that remembers keeps of a namespace: always of all that its log holds, and saved beside it.

T tokens
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nano_think.inference.slots import fold
from nano_think.memory.kept import Kept, load_kept, save_kept
from nano_think.models.chat import Carried, Model, remembers

if TYPE_CHECKING:
    from nano_think.memory.conversation import Conversations


def carried(model: Model, said: "Conversations") -> Carried:
    """What the model keeps of all that a namespace has said, and nothing of a model that does not remember.

    It is read off the log as far as no copy says it, and where the log was written anew all of it. A namespace that is
    opened for writing has the copy brought up to date; where the disk refuses, that is told, and the log says it again.
    """
    if not remembers(model):
        return {}
    known = _known(said)
    if known.clock < said.clock:
        parts = fold(model, _said_since(said, known.clock).tolist(), known.parts)
        known = Kept(generation=said.generation, clock=said.clock, parts=parts)
        if said.write:
            said.put_off(partial(save_kept, said.folder, known))
    said.kept = known
    return known.parts


def _known(said: "Conversations") -> Kept:
    """The newest copy of this generation, in memory or on the disk; of none, what is kept of nothing."""
    for copy in (said.kept, load_kept(said.folder)):
        if copy and copy.generation == said.generation and copy.clock <= said.clock:
            return copy
    return Kept(generation=said.generation, clock=0, parts={})


def _said_since(said: "Conversations", clock: int) -> np.ndarray:
    """The tokens that were said from a time on, in order, (T)."""
    texts = said.texts
    return texts.token[(texts.time >= clock) & (texts.time < said.clock)]
