"""``load_study``, ``launch`` and ``results``: what the command line does, as functions."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ValidationError

from kdtune.answers import tables
from kdtune.answers.query import gathered, study_name
from kdtune.base import RunError, UserError, did_you_mean
from kdtune.cluster.auth import require_token, use_token
from kdtune.filesystem.folder import absolute
from kdtune.filesystem.lock import locked
from kdtune.records.storage import Storage
from kdtune.records.stored_study import storage_root as storage_root
from kdtune.study.file import load_study as load_study
from kdtune.study.file import override
from kdtune.study.spec import STAGE_REFERENCE, TEACHER, StudySpec, TrialConfig, Value, told

if TYPE_CHECKING:
    from kdtune.base import LossTerm
    from kdtune.loading.pack import PackMode
    from kdtune.records.logbook import Publish
    from kdtune.records.progress import Reporter
    from kdtune.training.trial import Trainer


READABLE = 500  # values of a table that the end of a launch still shows


def data_folder(given: str | None = None) -> str | None:
    """The flag, else ``KDTUNE_DATA_ROOT``, else none."""
    found = given or os.environ.get("KDTUNE_DATA_ROOT")
    return absolute(found) if found else None


@dataclass(frozen=True)
class Options:
    """How a launch departs from the study's file; none changes it."""

    stages: Sequence[str] = ()
    search: str | None = None
    samples: int | None = None
    scheduler: str | None = None
    teacher: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    max_concurrent: int | None = None
    gpus_per_trial: float | None = None
    country: str | None = None
    loggers: Sequence[str] = ()
    pack: "PackMode" = "always"


def adjusted(study: StudySpec, options: Options) -> StudySpec:
    """The study with the launch's options in it.

    Raises:
        UserError: an option names a stage or path that the study does not have, or leaves no trial.
    """
    settings = dict(options.settings)
    if options.teacher is not None:
        settings["teacher.checkpoint"] = options.teacher
    if settings:
        study = override(study, settings)
    if any(config.uses_teacher for config in study.templates().values()):
        from kdtune.training.teachers import fitted  # torch is imported now, not for studies without a teacher

        study = fitted(study)
    names = [stage.name for stage in study.stages]
    for name in options.stages:
        if name not in names:
            raise UserError(
                f"--stage {name}: study '{study.name}' has no such stage{did_you_mean(name, names)}; "
                f"there are: {', '.join(names)}"
            )
    if options.samples is not None and options.samples < 1:
        raise UserError(f"--samples {options.samples}: leaves no trial; give 1 or more")
    changes: dict[str, Any] = {
        "max_concurrent": options.max_concurrent,
        "gpus_per_trial": options.gpus_per_trial,
        "country_iso_code": options.country,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    data = study.model_dump(mode="json") | changes
    if options.scheduler is not None:
        data["scheduler"] = options.scheduler
    for stage in data["stages"]:
        if options.scheduler is not None and len(stage["seeds"]) == 1:
            stage["scheduler"] = options.scheduler
        if options.search is not None and _searched(stage):
            stage["search"] = options.search
        if options.samples is not None and stage["search"] != "grid":
            stage["samples"] = options.samples
    if options.samples is not None and all(stage["search"] == "grid" for stage in data["stages"]):
        raise UserError("--samples needs --search random or tpe: every stage of this study is a grid")
    if data == study.model_dump(mode="json"):
        return study  # valid already: every value of every grid would be tried again
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        message = told(error.errors()[0])
        raise UserError(f"these options do not fit study '{study.name}': {message}") from None


def _searched(stage: Mapping[str, Any]) -> bool:
    """Whether another search can take the grid's place: one seed, one start, and more than one value to choose from."""
    values = sum(len(axis) for axis in stage["grid"].values())
    return (
        len(stage["seeds"]) == 1
        and len(stage["start_from"]) <= 1
        and (values > len(stage["grid"]) or bool(stage["ranges"]))
    )


def launch(
    study: StudySpec,
    *,
    storage: str | None = None,
    data_root: str | None = None,
    address: str | None = None,
    options: Options | None = None,
    reporter: "Reporter | None" = None,
    command: str | None = None,
    trainer: "Trainer | None" = None,
) -> Storage:
    """Runs the study's stages in order; launched again, it goes on where it ended. Returns where the results are.

    ``command``: what a user types to launch it again, for those who watch it from elsewhere. ``trainer``: runs a
    configuration in place of ``kdtune.training.trial.run``; workers must be able to import it.

    Raises:
        UserError: the study, its data, a checkpoint or the storage needs mending; nothing finished is lost.
        RunError: interrupted, or no trial of a stage came to a result; says how to continue.
    """
    if address:
        use_token()
    else:
        require_token()
    from kdtune.records.logbook import here, logbook
    from kdtune.records.progress import Reporter
    from kdtune.search.launch import Launch  # Ray and torch are imported now, not for --help
    from kdtune.training import trial

    options = options or Options()
    study = adjusted(study, options)
    where = Storage(storage_root(storage), study.name)
    where.check_writable()
    me = here(options.stages, address, command)
    with (
        locked(where.folder) as held,
        logbook(where.folder, me, held, reporter or Reporter(), _publisher(me.submission_id)) as told,
    ):
        run = Launch(study, where, data_folder(data_root), told, held, pack=options.pack)
        run.own_root = bool(address) and not data_root  # a flag holds for all nodes
        run.trainer, run.loggers = trainer or trial.run, options.loggers
        run.run(address, options.stages)
    return where


def _publisher(submission_id: str | None) -> "Publish | None":
    if submission_id is None:
        return None
    from kdtune.cluster.jobs import publisher

    return publisher(submission_id)


@dataclass(frozen=True)
class Results:
    """The tables of a study."""

    storage: Storage

    def table(self, name: str) -> pa.Table:
        """A table by its name, as data: one of ``kdtune.answers.tables.NAMES``, ``history`` or ``nodes``.

        Raises:
            UserError: the study has not been launched with this storage, or there is no table of that name.
        """
        if name in ("history", "nodes"):
            return self.storage.table(name)
        return tables.table(name, self.all(), self.storage.study)

    def all(self) -> tables.Tables:
        """All stored tables, and what the study planned."""
        return gathered([self.storage])


def results(name: str, storage: str | None = None) -> Results:
    """The results of a study by its name (or its file)."""
    return Results(Storage(storage_root(storage), study_name(name)))


def cost(study: StudySpec, where: Storage) -> str:
    """What a launch would run: stages, trials, steps; hours where earlier trials of the study tell the speed."""
    templates = study.templates()
    speeds = _speeds(where)
    lines = [f"study {study.name}: results would be in {where.folder.uri}"]
    total = {"trials": 0, "steps": 0, "hours": 0.0}
    for stage in study.stages:
        points = stage.points(list(study.template_starts(stage)), study.seed) if stage.search != "tpe" else []
        trials = len(points) or stage.samples or 0
        recipe = templates[stage.name].recipe
        steps = trials * recipe.num_steps
        stopped = study.scheduler_of(stage)
        early = f", early stopping by {stopped}" if stopped != "none" else ""
        lines.append(
            f"  {stage.name:16} {trials:4} trials of {recipe.num_steps} steps, batch {recipe.batch_size}{early}"
        )
        total["trials"] += trials
        total["steps"] += steps
        speed = speeds.get(stage.name) or speeds.get("")
        total["hours"] += steps * recipe.batch_size / speed / 3600 if speed else 0.0
    lines.append(f"  {'in all':16} {total['trials']:4} trials, at most {total['steps']:,} steps")
    if speeds:
        lines.append(f"  at the speed of the trials on record: at most {total['hours']:.1f} hours of one trial slot")
    else:
        lines.append("  no trial is on record yet, so no time can be told; `kdtune bench train` measures a step here")
    return "\n".join(lines)


def _speeds(where: Storage) -> dict[str, float]:
    """Images per second by stage, and under "" the slowest of all, from the trials on record."""
    found: dict[str, list[float]] = {}
    for record in where.records().values():
        row = record["row"]
        if row["images_per_second"]:
            found.setdefault(row["stage"], []).append(row["images_per_second"])
    means = {stage: sum(values) / len(values) for stage, values in found.items()}
    return means | {"": min(means.values())} if means else {}


def print_summary(where: Storage, styled: bool) -> None:
    """The tables that answer the study's question, on standard output."""
    from kdtune.answers.layouts import render

    stored = Results(where).all()
    for name in ("grid", "temperature", "weights", "final", "initialization", "optimal"):
        size = tables.table(name, stored, where.study).num_rows
        if size > READABLE:
            print(f"{where.study}: {name} of {size} values: kdtune results {where.study} --table {name} --format csv\n")
        elif size:
            print(render(name, stored, where.study, "text", styled=styled))


def loss_lines() -> list[str]:
    """Every loss term: symbol and source; parameters with defaults; what it needs; what it owns. 100 columns."""
    from kdtune.losses import LOSSES

    lines = []
    for name in LOSSES.names():
        term = LOSSES.resolve(name)
        fields = [f"{k}={v.default}" for k, v in term.model_fields.items() if k != "weight"]
        told = {
            "parameters": ", ".join(fields) or "none but its weight",
            "needs": ", ".join(_needs(term.model_construct(weight=1.0))) or "logits only",
            "owns": term.owns or "nothing",
        }
        lines += textwrap.wrap(f"{name:7} {term.symbol:9} {term.source}", 100, subsequent_indent=" " * 18)
        for key, text in told.items():
            lines += textwrap.wrap(f"{key + ':':11} {text}", 100, initial_indent=" " * 8, subsequent_indent=" " * 20)
    return lines


def _needs(term: "LossTerm") -> list[str]:
    """What a term with its defaults is given beyond the student's logits."""
    needs = ["teacher"] if term.needs_teacher else []
    needs += ["labels"] if term.needs_labels else []
    for network, taps in (("student", term.taps), ("teacher", term.teacher_taps)):
        needs += [f"{network}'s {tap}" for tap in sorted(taps)]
    return needs


def train(
    study: str,
    data_root: str | None,
    settings: Mapping[str, Value],
    stage: str | None,
    teacher: str | None,
    output: str,
    pack: "PackMode" = "always",
) -> Iterator[str]:
    """Trains a stage's first configuration in this process, without Ray; a line per evaluation.

    Raises:
        UserError: unknown stage, missing data or weights.
        RunError: the trial failed.
    """
    spec = adjusted(load_study(study), Options(settings=settings, teacher=teacher, stages=[stage] if stage else []))
    name = stage or spec.stages[0].name
    config = spec.templates()[name]
    config = config.replace({"seed": spec.stage(name).seeds[0]})
    yield from _trained(spec, name, config, data_root, output, pack)


def train_teacher(
    study: str, data_root: str | None, settings: Mapping[str, Value], output: str, pack: "PackMode" = "always"
) -> Iterator[str]:
    """Trains the study's teacher in this process, without Ray; a line per evaluation. Run again, it goes on.

    It is the study's stage ``teacher``, if it has one; else the network that its first stage with a teacher names,
    on labels alone, with the study's base recipe, from ImageNet's weights where there are any for it.

    Raises:
        UserError: the study has no teacher, or its data is missing.
        RunError: the trial failed.
    """
    spec = adjusted(load_study(study), Options(settings=settings))
    templates = spec.templates()
    if TEACHER in templates:
        config = templates[TEACHER].replace({"seed": spec.stage(TEACHER).seeds[0]})
    else:
        config = _teacher_alone(spec, templates)
    line = ""
    for line in _trained(spec, TEACHER, config, data_root, output, pack):
        yield line
    yield f"next: kdtune launch {study} --teacher {line.removeprefix('weights: ')}"


def _teacher_alone(spec: StudySpec, templates: Mapping[str, TrialConfig]) -> TrialConfig:
    """The study's base with its teacher as the student."""
    model = next((c.teacher.model for c in templates.values() if c.uses_teacher and c.teacher), None)
    if model is None:
        raise UserError(f"study '{spec.name}' has no teacher: none of its stages uses one")
    labels = {name: term.model_dump(mode="json") for name, term in spec.base.losses.items() if not term.needs_teacher}
    changes = {"teacher": None, "warm_start": None, "losses": labels}
    fault = ""
    for init in ("imagenet", "random"):
        try:
            return spec.base.replace({**changes, "student": model.model_dump(mode="json") | {"init": init}})
        except ValidationError as error:
            fault = told(error.errors()[0])
    raise UserError(f"study '{spec.name}': its teacher cannot be trained with its base: {fault}")


def _trained(
    spec: StudySpec, stage: str, config: TrialConfig, data_root: str | None, output: str, pack: "PackMode" = "always"
) -> Iterator[str]:
    """Runs a trial in this process from where its journal says; the last line says where its weights are."""
    from kdtune.records.journal import Planned, follow
    from kdtune.records.rows import absent_note
    from kdtune.training.energy import check_country, metered_here
    from kdtune.training.trial import Site

    for path, reference in config.checkpoints().items():
        if reference.startswith(STAGE_REFERENCE):
            raise UserError(
                f"{path} is '{reference}', which another stage makes; give --teacher FILE, or launch the study"
            )
    check_country(spec.country_iso_code)
    where = Storage(output, spec.name)
    where.check_writable()
    planned = Planned(spec.name, stage, "base", config)
    yield f"{planned.trial_id}: {config.recipe.num_steps} steps; files in {where.folder.uri}"
    past = where.record(planned.trial_id)
    row = past["row"] if past else {}
    if row.get("status") != "completed":
        with metered_here(spec.country_iso_code) as spent:
            for record in follow(planned, Site(data_folder(data_root), pack=pack), where, spent=spent):
                row, last = record["row"], record["history"][-1] if record["history"] else {}
                if row["status"] == "failed":
                    raise RunError(f"trial {row['trial_id']} failed: {row['error']}")
                miou = "diverged" if row["miou"] is None else f"mIoU {row['miou']:.2f}"
                yield f"step {row['step']}/{row['steps_total']}: {miou}, loss {last.get('loss') or float('nan'):.4f}"
    if row["status"] == "diverged":
        raise RunError(f"trial {row['trial_id']} diverged at step {row['step']}: a lower recipe.lr may help")
    if row["energy_kwh"] is not None:
        yield f"energy of its steps: {row['energy_kwh']:.3g} kWh, {row['co2_kg']:.3g} kg CO2-equivalent"
    note = absent_note(config.dataset.class_names, row["per_class_iou"])
    if note:
        yield note
    yield f"weights: {where.checkpoint_uri(planned.trial_id)}"
