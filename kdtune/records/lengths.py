"""How many steps a trial of a budget has: what its row says, once that was measured."""

from kdtune.records.journal_files import Record
from kdtune.records.storage import Storage
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent
from kdtune.training.site import Site


def of_known_length(config: TrialConfig, record: Record, site: Site, storage: Storage, spent: Spent) -> TrialConfig:
    """The configuration with the steps that its budget allows: measured once, then what the trial's row says.

    Raises:
        UserError: see ``steps_allowed``.
    """
    if config.recipe.budget is None:
        return config
    from kdtune.training.measuring import steps_allowed, with_length  # with torch, where such a trial runs

    if record["row"]["steps_total"] is None:
        record["row"]["steps_total"] = steps_allowed(config, site, spent)
        storage.write_record(record)
    return with_length(config, record["row"]["steps_total"])


def keep_length(record: Record, before: Record) -> None:
    """A trial of a budget that begins again is as long as before: what it comes to hangs on that."""
    if record["row"]["steps_total"] is None:
        record["row"]["steps_total"] = before["row"].get("steps_total")
