"""E4: a last training in which the experts learn together with their router, at equal tokens.

    python benchmarks/experiments/e4.py --preset micro --seeds 1 2 3 --dense --out docs/results-e4.md

Ordinary runs: experts that stay frozen after their own training, and experts whose own training is shorter by a share
of its tokens, which all of them then read together with the router (`router.joint_tokens`). A joint step computes every
expert once, as their own steps do, and the head once for all of them: the column of FLOPs tells what each way took. The
dense control of a run is as large and as expensive as that run's mixture. Finished stages are not made again.
"""

from runs import arguments, budget_of, compare, show

BASE = "frozen"


def main() -> None:
    parser = arguments(__doc__, "artifacts/e4")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3], help="of an expert's tokens, joint")
    wanted = parser.parse_args()
    budget, variants = budget_of(wanted), {BASE: {}}
    for share in wanted.shares:
        joint = round(share * budget)
        variants[f"joint {share:.0%}"] = {"pretrain": {"tokens": budget - joint}, "router": {"joint_tokens": joint}}
    show(wanted, compare(wanted, variants, BASE))


if __name__ == "__main__":
    main()
