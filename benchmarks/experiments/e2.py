"""E2: how much of the budget belongs into the shared token table?

    python benchmarks/experiments/e2.py --preset micro --seeds 1 2 3 --out docs/results-e2.md

Ordinary runs that differ in the table's training alone: shares of one expert's tokens. Everything after it is the same,
so that a larger share costs more in all, which the column of FLOPs tells (table, experts and router). With --equal the
experts' budgets are cut by what the table's training takes, shared out among them, so that the sum of tokens is the
same. Finished stages are not made again.
"""

from runs import arguments, budget_of, compare, show


def main() -> None:
    parser = arguments(__doc__, "artifacts/e2")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2, 0.4, 0.8], help="of an expert's tokens")
    parser.add_argument("--base", type=float, default=0.4, help="the share that the others are compared with")
    parser.add_argument("--members", type=int, default=3, help="experts that --equal shares the table's cost out among")
    parser.add_argument("--equal", action="store_true", help="the sum of all trainings' tokens stays the same")
    wanted = parser.parse_args()
    budget, variants = budget_of(wanted), {}
    for share in wanted.shares:
        table = round(share * budget)
        less = round((wanted.base - share) * budget / wanted.members) if wanted.equal else 0
        variants[f"table {100 * share:g}%"] = {
            "embedding": {"train": {"tokens": table}},
            "pretrain": {"tokens": budget + less},
        }
    show(wanted, compare(wanted, variants, f"table {100 * wanted.base:g}%"))


if __name__ == "__main__":
    main()
