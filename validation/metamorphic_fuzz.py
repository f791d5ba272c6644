"""Change random problems in ways that change their answers by known amounts, and compare bounds.

Run ``python validation/metamorphic_fuzz.py --count 5000`` (about six minutes on one core) with the
package and its extra ``rigor`` installed; `references/metamorphic.py` has the changes: constants in
log-features and logits, other numbers for states, actions and parameters, split states, doubled
actions, scattered sparse tables, masses of 1 +- 2^-30, potential shaping, other units, stored
zeros, states and actions that nothing leads to, other parameters, an end in place of a discount, a
first step in place of an initial distribution; of `FeatureProblem`, `MarkovGame` of both kinds,
`Budget`, `Reparametrised`, and the adapters of gymnasium and JAX where they are installed.
Instances are dyadic, so that nothing is rounded on the way. Of each, the bounded answers before and
after, those of a plain result, and the enclosed ones, which are also compared with the bounded,
have to overlap. The exit status is 1 if any two do not, else 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter

import numpy as np
from references.metamorphic import CHANGES, draw_pair, examine

# JAX compiles each problem anew, which takes seconds.
JAX_SHARE = 0.01

NEEDED = {"in_jax": "jax", "from_outcomes": "gymnasium"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(CHANGES), help="one kind of change")
    options = parser.parse_args(arguments)
    names = [name for name in CHANGES if importlib.util.find_spec(NEEDED.get(name, "numpy"))]
    names = [options.only] if options.only else names
    weights = np.array([JAX_SHARE * len(names) if name == "in_jax" else 1.0 for name in names])
    began = time.perf_counter()
    seen: Counter[str] = Counter()
    violated: Counter[str] = Counter()
    for k in range(options.count):
        rng = np.random.default_rng([options.seed, k])
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        seen[name] += 1
        failures = examine(draw_pair(rng, name))
        violated[name] += bool(failures)
        for which, what, gap, room in failures[:5]:
            print(f"instance [{options.seed}, {k}], {name}, {which}: {what} is {gap:.3g} apart, "
                  f"bounds leave {room:.3g}")  # fmt: skip
    print(
        f"{options.count} instances, {violated.total()} violated, "
        f"{time.perf_counter() - began:.0f} s"
    )
    for name in names:
        print(f"  {name}: {seen[name]}, violated {violated[name]}")
    return int(violated.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
