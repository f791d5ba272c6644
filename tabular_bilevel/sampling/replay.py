"""Replay: the steps of earlier calls, taken for those of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tabular_bilevel._base.arrays import IntArray, read_only
from tabular_bilevel.sampling.trajectories import Trajectories, joined

__all__ = ["with_earlier"]

#: Pair, stored transition and next state of each step; length of each trajectory, whether it is
#: complete, and how many calls ago it was drawn.
STEPS, TRAJECTORIES = "replayed_steps", "replayed_trajectories"


def with_earlier(
    now: Trajectories, memory: Mapping[str, Any], calls: int
) -> tuple[Trajectories, dict[str, IntArray]]:
    """Put what earlier calls drew behind what is drawn now; return what the next call is to see.

    Raises
    ------
    ValueError
        If a step of an earlier call is none of the model's now.
    """
    model = now.model
    after = np.append(model.transition.indices, np.int32(-1))
    steps = np.column_stack([now.pairs, now.entries, after[now.entries]])
    complete = np.arange(now.count) < now.complete
    rows = np.column_stack([now.lengths, complete, np.zeros(now.count, dtype=np.int64)])
    if STEPS in memory:
        before, old = memory[STEPS], memory[TRAJECTORIES]
        pairs, entries, following = before[:, 0], before[:, 1], before[:, 2]
        row = np.append(model.entry_row, -1)[np.clip(entries, -1, model.entry_row.size)]
        ends = (entries < 0) & (model.termination.ravel()[pairs] > 0.0)
        known = ends | ((row == pairs) & (after[entries] == following))
        if not known.all():
            k = int(np.argmin(known))
            raise ValueError(
                f"step {k} of what is replayed, from {divmod(int(pairs[k]), model.n_actions)} to "
                f"state {following[k]}, is none of the model's: its transitions have moved"
            )
        earlier = now.replace(
            pairs=pairs.astype(now.pairs.dtype),
            entries=entries.astype(now.entries.dtype),
            lengths=old[:, 0],
            longest=int(old[:, 0].max()),
            complete=int(old[:, 1].sum()),
        )
        now = joined([now, earlier])
        steps = np.concatenate([steps, before])
        rows = np.concatenate([rows, old + np.array([0, 0, 1])])
    kept = rows[:, 2] < calls
    steps = steps[: rows[kept, 0].sum()]  # the newest come first
    return now, {STEPS: read_only(steps), TRAJECTORIES: read_only(rows[kept])}
