"""The data of a study before any step: every node that trials may run on must have the same."""

import platform
from collections.abc import Mapping, Sequence

from kdtune.cluster import inspection, nodes
from kdtune.cluster.halt import Halt, promptly
from kdtune.loading.pack import dataset_root
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record, Storage
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Part, Site


def check_data(
    configs: Sequence[TrialConfig],
    site: Site,
    storage: Storage,
    records: Mapping[str, Record],
    reporter: Reporter,
    halt: Halt,
    *,
    joined: bool,
) -> dict[Part, str]:
    """The content key of every split, once each node has packed it and looked at every label.

    Args:
        configs: one for every dataset, see ``datasets_of``.
        site: where this machine's data are, and how nodes find theirs.
        storage: of the study; the keys are noted there.
        records: the trials on record, whose data must be the same.
        reporter: told what is read.
        halt: of the launch, whose signals are handled by now if nodes are asked.
        joined: whether the nodes of a cluster are asked; else this machine is the only one.

    Raises:
        UserError: data are missing, damaged, or not the same everywhere.
        Interrupted: by Ctrl-C or SIGTERM.
    """
    for config in configs if not joined else ():  # what is missing is said before anything else
        root = dataset_root(config.dataset, site.data_root)
        config.dataset.samples("train", root)
        config.dataset.samples("val", root)
    reporter.note(f"reading {', '.join(sorted({config.dataset.name for config in configs}))}")
    if joined:
        answers = nodes.ask(configs, site, reporter, halt)
    else:
        with promptly():
            answers = [inspection.Answer(platform.node(), inspection.look(configs, site))]
    return inspection.settle(storage, records, answers)


def datasets_of(study: StudySpec, only: Sequence[str]) -> list[TrialConfig]:
    """A configuration for every dataset that a trial of these stages (none: all) may use."""
    found = {}
    for stage in (stage for stage in study.stages if not only or stage.name in only):
        for config in study.templates_of(stage):
            axes = {path: values for path, values in stage.grid.items() if path.split(".")[0] == "dataset"}
            changes = [{path: value} for path, values in axes.items() for value in values]
            for each in (config, *map(config.replace, changes)):
                found[each.dataset.model_dump_json()] = each
    return list(found.values())
