"""E3: experts that each lean to a domain of their own, against experts that all read all of them alike.

    python benchmarks/experiments/e3.py --preset micro --seeds 1 2 3 --dense --out docs/results-e3.md

Three transformers of one shape and of different seeds, each with the same number of tokens: in one variant all draw
them from the text as it is, in the others each has its own domain so many times as often as that (`pretrain.lean`; with
a large number it reads next to nothing else, and its domain in more passes). Router, table and test documents are the
same. Finished stages are not made again.
"""

from runs import arguments, compare, show

MEMBERS = ("transformer", "transformer_2", "transformer_3")
BASE = "all alike"


def main() -> None:
    parser = arguments(__doc__, "artifacts/e3")
    parser.add_argument("--leans", type=float, nargs="+", default=[4.0, 1000.0], help="how many times as often")
    wanted = parser.parse_args()
    variants = {BASE: {"members": MEMBERS, "pretrain": {"lean": 1.0}}}
    variants |= {f"own domain x {lean:g}": {"members": MEMBERS, "pretrain": {"lean": lean}} for lean in wanted.leans}
    show(wanted, compare(wanted, variants, BASE))


if __name__ == "__main__":
    main()
