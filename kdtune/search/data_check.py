"""The data of a study before any step: every node that trials may run on must have the same."""

import platform
from collections.abc import Mapping, Sequence

from kdtune.cluster import inspection, nodes
from kdtune.cluster.attended import attended
from kdtune.cluster.halt import Halt, promptly
from kdtune.loading.content import Content
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record, Storage
from kdtune.study.plug_ins import named
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Part, Site


def check_data(
    study: StudySpec,
    only: Sequence[str],
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
        study: whose datasets, and plug-ins, every node must have.
        only: the stages that run; empty: all.
        site: where this machine's data are, and how nodes find theirs.
        storage: of the study; the keys are noted there.
        records: the trials on record, whose data must be the same.
        reporter: told what is read.
        halt: of the launch, whose signals are handled by now if nodes are asked.
        joined: whether the nodes of a cluster are asked; else this machine is the only one.

    Raises:
        UserError: data are missing, damaged, or not the same everywhere.
        Interrupted: by Ctrl-C or SIGTERM.
        Stuck: this machine's data cannot be read, and are no error either.
    """
    configs, stall_after = datasets_of(study, only), study.stall_after
    what = f"reading {', '.join(sorted({config.dataset.name for config in configs}))}"
    if joined:
        reporter.note(what)
        answers = nodes.ask(configs, named(study), site, reporter, halt, stall_after)
    else:

        def look() -> dict[Part, Content]:
            inspection.check_there(configs, site.data_root)  # what is missing is said before anything else
            reporter.note(what)
            return inspection.look(configs, site)

        with promptly():
            answers = [inspection.Answer(platform.node(), attended(what, look, stall_after, reporter.note))]
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
