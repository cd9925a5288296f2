"""The weights that a launch's trials load: files by their content, and what earlier stages have made."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from kdtune.base import UserError
from kdtune.filesystem.folder import absolute, read_file
from kdtune.records.rows import Row
from kdtune.records.storage import Storage
from kdtune.search.networks import named_networks
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig
from kdtune.training.absent_weights import absent


@dataclass
class Checkpoints:
    """Files of weights by their content: a teacher is the same wherever it lies."""

    references: dict[str, str] = field(default_factory=dict)  # as written -> by content
    files: dict[str, str] = field(default_factory=dict)  # by content -> file or URI

    def locate(self, study: StudySpec, only: Sequence[str]) -> None:
        """Reads every file that these stages (none: all) name.

        Raises:
            UserError: one is not there.
        """
        stages = [stage for stage in study.stages if not only or stage.name in only]
        for config in (config for stage in stages for config in study.loading(stage)):
            for path, reference in config.checkpoints().items():
                if reference in self.references or reference.startswith((STAGE_REFERENCE, "trial:", "sha256:")):
                    continue
                content = read_file(reference)
                if content is None:
                    raise UserError(absent(path, reference))
                by_content = f"sha256:{hashlib.sha256(content).hexdigest()}"
                self.references[reference] = by_content
                self.files[by_content] = absolute(reference)


def made_weights(
    study: StudySpec, stage: Stage, starts: Collection[str], winners: Callable[[str], list[Row]]
) -> dict[str, str]:
    """``stage:NAME`` -> ``trial:ID`` of that stage's best trial, for what a stage's trials from these starts name."""
    templates = zip(study.template_starts(stage), study.templates_of(stage), strict=True)
    named = {ref for start, config in templates if start in starts for ref in config.checkpoints().values()}
    makers = {ref: ref.removeprefix(STAGE_REFERENCE) for ref in sorted(named) if ref.startswith(STAGE_REFERENCE)}
    return {reference: f"trial:{winners(name)[0]['trial_id']}" for reference, name in makers.items()}


def weights_files(storage: Storage, configs: Sequence[TrialConfig], references: Iterable[str]) -> dict[str, str]:
    """Of the trials that these name, used or not; of all trials they would go to a worker with every trial."""
    parts = [part for config in configs for part in (config.teacher, config.warm_start) if part is not None]
    named = {*references, *(part.checkpoint for part in parts)}
    ids = [reference.removeprefix("trial:") for reference in named if reference.startswith("trial:")]
    return {f"trial:{id_}": storage.checkpoint_uri(id_) for id_ in ids}


def check_networks(study: StudySpec, only: Sequence[str]) -> None:
    """Builds each network of another package once: what a study says of it is seen only then."""
    for named in named_networks(study, only, external=True):
        named.built()
