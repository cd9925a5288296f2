"""What trains a trial, by name: torch is imported where a trial runs, not where one is planned."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.site import Site

if TYPE_CHECKING:
    from kdtune.training.loop import Evaluation, Run

# Runs a configuration to its end, from a saved state if there is one: ``train_and_evaluate`` but where only the way
# there is measured.
Trainer: TypeAlias = "Callable[[TrialConfig, Site, Mapping[str, Any] | None, Spent], Iterator[tuple[Evaluation, Run]]]"


def train_and_evaluate(
    config: TrialConfig, site: Site, saved: Mapping[str, Any] | None = None, spent: Spent = unmeasured
) -> "Iterator[tuple[Evaluation, Run]]":
    """See ``kdtune.training.trial.run``."""
    from kdtune.training.trial import run

    return run(config, site, saved, spent)
