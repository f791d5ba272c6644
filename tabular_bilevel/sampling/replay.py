"""Replay: the steps of earlier calls, taken for those of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tabular_bilevel._base.arguments import entry, finite_array, first
from tabular_bilevel._base.arrays import IntArray, read_only
from tabular_bilevel.sampling.trajectories import Trajectories, joined

#: Pair, stored transition and next state of each step; length of each trajectory, whether it is
#: complete, and how many calls ago it was drawn.
STEPS, TRAJECTORIES = "replayed_steps", "replayed_trajectories"

# Larger numbers of a damaged memory would not be whole in float64.
MOST = 2.0**53


def with_earlier(
    now: Trajectories, memory: Mapping[str, Any], calls: int
) -> tuple[Trajectories, dict[str, IntArray]]:
    """Put what earlier calls drew behind what is drawn now; return what the next call is to see.

    Raises
    ------
    ValueError
        If a step of an earlier call is none of the model's now, or what is remembered is damaged.
    """
    model = now.model
    after = np.append(model.transition.indices, np.int32(-1))
    steps = np.column_stack([now.pairs, now.entries, after[now.entries]])
    complete = np.arange(now.count) < now.complete
    rows = np.column_stack([now.lengths, complete, np.zeros(now.count, dtype=np.int64)])
    if STEPS in memory or TRAJECTORIES in memory:
        before, old = (_remembered(memory, name) for name in (STEPS, TRAJECTORIES))
        if old[:, 0].min() < 1 or old[:, 0].sum() != len(before):
            raise ValueError(
                f"memory.{STEPS} has {len(before)} steps, and memory.{TRAJECTORIES} lengths that "
                "do not add up to them"
            )
        pairs, entries, following = before[:, 0], before[:, 1], before[:, 2]
        row = np.append(model.entry_row, -1)[np.clip(entries, -1, model.entry_row.size)]
        inside = (pairs >= 0) & (pairs < model.termination.size)
        ends = (entries == -1) & (np.take(model.termination, pairs, mode="clip") > 0.0)
        stored = (row == pairs) & (np.take(after, entries, mode="wrap") == following)
        known = inside & (ends | stored)
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


def _remembered(memory: Mapping[str, Any], name: str) -> IntArray:
    """Read a table of three columns of whole numbers; others may have written it."""
    found = finite_array(f"memory.{name}", memory.get(name, ()), (None, 3))
    bad = (found != np.trunc(found)) | (np.abs(found) > MOST)
    if bad.any():
        index = first(bad)
        raise ValueError(f"{entry(f'memory.{name}', index)} is {found[index]}, no whole number")
    return found.astype(np.int64)
