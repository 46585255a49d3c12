"""E4: a last training in which the experts learn together with their router, at equal training FLOPs.

    python benchmarks/experiments/e4.py --preset micro --seeds 1 2 3 --dense --out docs/results-e4.md

Ordinary runs: experts that stay frozen after their own training, and experts whose own training is shorter by a share
of its tokens, for which all of them then learn together with the router (`router.joint_tokens`). A joint step computes
every expert once, as their own steps do, and the head once for all of them, so that a token of it costs less than one
of each expert's: it gets as many tokens, in whole steps, as bring all trainings together to what they take where the
experts stay frozen, by the pipeline's own counts. The dense control of a run is as large and as expensive as that run's
mixture. Finished stages are not made again.
"""

import argparse
from typing import Any

from runs import arguments, budget_of, compare, configure, show, training_flops

BASE = "frozen"
# What may be left between the variants' training FLOPs, as a share of them.
CLOSE = 0.005


def main() -> None:
    parser = arguments(__doc__, "artifacts/e4")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3], help="of an expert's tokens, joint")
    wanted = parser.parse_args()
    variants = {BASE: {}} | {f"joint {100 * share:g}%": joint_variant(wanted, share) for share in wanted.shares}
    show(wanted, compare(wanted, variants, BASE))


def joint_variant(wanted: argparse.Namespace, share: float) -> dict[str, Any]:
    """The settings that give a share of the experts' training to a joint one of the same FLOPs.

    What a token costs is the same at every seed: it is counted at the first.
    """

    def settings(joint: int) -> dict[str, Any]:
        return {"pretrain": {"tokens": round((1 - share) * budget_of(wanted))}, "router": {"joint_tokens": joint}}

    def flops(overrides: dict[str, Any]) -> float:
        return training_flops(configure(wanted, wanted.seeds[0], overrides), wanted.root)

    base = configure(wanted, wanted.seeds[0], {})
    step, goal, without = base.router.train.batch * base.space.window, flops({}), flops(settings(0))
    joint = settings(max(1, round((goal - without) / (flops(settings(step)) - without))) * step)
    left = flops(joint) / goal - 1
    if abs(left) > CLOSE:
        raise SystemExit(
            f"benchmark: --shares: wanted training FLOPs within {CLOSE:.1%} of the frozen experts', got {left:+.1%}"
            f" with {share:.0%} in whole steps of {step:,} tokens; raise --tokens"
        )
    return joint


if __name__ == "__main__":
    main()
