"""A pipeline of toy stages: what a run does with a graph, in milliseconds.

    text -> words -> left  -\\
                  -> right -> mix -> page
"""

from nano_think.stages.pipeline import Node

EDGES = {
    "text": (), "words": ("text",), "left": ("words",), "right": ("words",), "mix": ("left", "right"),
    "page": ("mix", "words"),
}  # fmt: skip


def make_graph(make_word, **words):
    """The nodes; each stage writes its own name, or the word that is given for it."""
    nodes = {}
    for name, needs in EDGES.items():
        stage = make_word(words.get(name, name))
        stage.name = name
        nodes[name] = Node(stage, needs)
    return nodes


def run_graph(nodes, root, context=None):
    """Every node in order, in this process; the artifacts."""
    made = {}
    for name, node in nodes.items():
        made[name] = node.stage.run(root, {need: made[need] for need in node.needs}, context)
    return made
