"""What a study uses of other packages than kdtune."""

from collections.abc import Iterator

from kdtune.datasets import DATASETS
from kdtune.losses import LOSSES
from kdtune.models import MODELS
from kdtune.registry import PlugIn, Registry
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig

Named = tuple[str, str]  # the registry's group of entry points, and the name


def named(study: StudySpec) -> list[Named]:
    """The terms, networks and datasets of other packages that its stages use."""
    found = dict.fromkeys(each for s in study.stages for c in study.templates_of(s) for each in _of(c))
    return [(registry.group, name) for registry, name in found if registry.plug_in(name)]


def plug_ins(names: list[Named]) -> list[PlugIn]:
    """The same, each with its package and version as they are installed here.

    Raises:
        ValueError: one is not installed here, or cannot be imported.
    """
    registries = {registry.group: registry for registry in (LOSSES, MODELS, DATASETS)}
    found = []
    for group, name in names:
        registries[group].resolve(name)
        plug_in = registries[group].plug_in(name)
        if plug_in is not None:
            found.append(plug_in)
    return found


def needed_by_nodes(study: StudySpec) -> list[str]:
    """A line on what a cluster's machines must have installed beside kdtune, if anything."""
    found = ", ".join(str(each) for each in plug_ins(named(study)))
    return [f"every node needs, beside kdtune: {found}; they are looked for before the first trial"] if found else []


def _of(config: TrialConfig) -> Iterator[tuple[Registry, str]]:
    yield from ((LOSSES, name) for name in config.losses)
    yield MODELS, config.student.name
    if config.teacher is not None:
        yield MODELS, config.teacher.model.name
    yield DATASETS, config.dataset.name
