"""What a stage starts from: the best of earlier stages, and the weights that these and others made."""

from collections.abc import Iterable

from kdtune.search.checkpoints import Checkpoints, made_weights, weights_files
from kdtune.search.ledger import Ledger
from kdtune.search.stage_context import recorded, refuse_other_code
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage
from kdtune.study.trial_config import TrialConfig


def begun_from(
    study: StudySpec, stage: Stage, starts: Iterable[str], ledger: Ledger, checkpoints: Checkpoints
) -> tuple[dict[str, TrialConfig], dict[str, str], dict[str, str]]:
    """Start -> configuration; checkpoint reference -> by content; by content -> file or URI, for a stage's trials.

    Raises:
        NoStart: a stage that it starts from has come to nothing.
        UserError: the best of one runs code that the study does not name.
    """
    best = {name: recorded(ledger.winners(name)[0]) for name in starts if name in stage.start_from}
    refuse_other_code(study, best)
    found = {n: study.with_threads(c) for n, c in (best or {"base": study.base}).items()}
    references = checkpoints.references | made_weights(study, stage, found, ledger.winners)
    configs = [*found.values(), *study.loading(stage)]
    files = checkpoints.files | weights_files(ledger.storage, configs, references.values())
    return found, references, files
