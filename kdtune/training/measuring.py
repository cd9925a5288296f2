"""How many steps a trial's budget allows: its first steps are run, timed and thrown away; then it begins afresh."""

import math
from dataclasses import replace

import numpy as np

from kdtune.base import UserError
from kdtune.loading.holdout import Some
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.loop import ENDLESS, fit
from kdtune.training.site import Site
from kdtune.training.trial import prepared

WARM = 5  # steps before the first look
EVERY = 10  # steps between two looks
LEAST = 1.0  # seconds that are looked at, at least
MOST = 500  # steps


def with_length(config: TrialConfig, steps: int) -> TrialConfig:
    """The configuration with so many steps in the place of its budget."""
    return config.replace({"recipe.num_steps": steps, "recipe.budget": None})


def steps_allowed(config: TrialConfig, site: Site, spent: Spent = unmeasured) -> int:
    """How many steps take as much as the budget, and no less, on this device as it is now; at least one.

    The teacher runs at each of them, whatever is kept of it: what a method takes must not hang on who was here before.
    What comes before the first step, such as a term's own training, counts as well.

    Raises:
        UserError: nobody measures energy, or data or weights are missing or do not fit.
    """
    budget = config.recipe.budget
    assert budget is not None
    endless = config.replace({"recipe.num_steps": ENDLESS, "recipe.eval_every": ENDLESS, "recipe.budget": None})
    parts = prepared(endless, replace(site, store=None))
    images = parts.train, Some(parts.val, np.arange(1)), parts.device
    looks: list[tuple[int, float, float]] = []  # step, seconds, kWh so far
    try:
        due = range(WARM, MOST + 1, EVERY)
        for look in fit(endless, parts.state, parts.teaching, *images, spent, due):
            looks.append((look.step, look.seconds, parts.state.bill.training.kwh))
            long_enough = len(looks) > 1 and look.seconds - looks[0][1] >= LEAST
            if look.diverged or long_enough or look.step + EVERY > MOST:
                break
    finally:
        if parts.teaching is not None:
            parts.teaching.close()
    (first, *early), (last, *late) = looks[0], looks[-1]
    if last == first:
        return 1  # it diverges at once
    before, after = (early[1], late[1]) if budget.kwh else (early[0], late[0])
    each = (after - before) / (last - first)
    if each <= 0:
        raise UserError("budget: kwh: no energy is measured here; give seconds or steps")
    ahead = max(0.0, before - first * each)  # of the first step
    return max(1, math.ceil(((budget.kwh or budget.seconds or 0.0) - ahead) / each))
