"""The record of a network that a configuration made: what whoever uses its weights must know."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdtune.datasets import DATASETS
from kdtune.study.trial_config import TrialConfig
from kdtune.training.weights import WeightsRecord


def record_of(config: TrialConfig, source: Mapping[str, str], result: Mapping[str, Any] | None = None) -> WeightsRecord:
    """The record of a configuration's student; ``source``: its study and trial."""
    dataset = config.dataset
    usual = getattr(DATASETS.resolve(dataset.name), "palette", None)  # of one that says its own: no sequence
    palette = tuple(getattr(dataset, "palette", ()))
    told = isinstance(usual, Sequence) and tuple(usual) == palette
    return WeightsRecord(
        model=config.student.model_dump(mode="json"),
        num_classes=dataset.num_classes,
        dataset=dataset.name,
        classes=tuple(dataset.class_names),
        source=dict(source),
        size=getattr(dataset, "size", None),
        window=config.recipe.eval_window,
        palette=None if told else palette,
        result=dict(result or {}),
    )
