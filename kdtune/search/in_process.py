"""One configuration of a study in this process, without Ray: ``kdtune train`` and ``kdtune teacher train``."""

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from kdtune.base import RunError, UserError
from kdtune.loading.pack import PackMode, data_folder
from kdtune.records.rows import absent_note
from kdtune.records.storage import Storage
from kdtune.records.trial_record import Planned
from kdtune.search.options import Options, adjusted
from kdtune.study.faults import told
from kdtune.study.file import load_study
from kdtune.study.names import TEACHER
from kdtune.study.settings import kept_searches
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import STAGE_REFERENCE, TrialConfig, Value
from kdtune.training.energy_counter import check_country
from kdtune.training.numerics import NUMERICS
from kdtune.training.site import Site


def train(
    study: str,
    data_root: str | None,
    settings: Mapping[str, Value],
    stage: str | None,
    teacher: str | None,
    output: str,
    pack: PackMode = "always",
    threads: int | None = None,
) -> Iterator[str]:
    """Trains a stage's first configuration in this process, without Ray; a line per evaluation.

    Raises:
        UserError: unknown stage, missing data or weights.
        RunError: the trial failed.
    """
    found = load_study(study)
    options = Options(settings=settings, teacher=teacher, stages=[stage] if stage else [], threads=threads)
    spec = adjusted(found, options)
    for line in kept_searches(found, options.changes):
        yield f"note: {line}"
    name = stage or spec.stages[0].name
    config = spec.templates()[name]
    config = config.replace({"seed": spec.stage(name).seeds[0]})
    yield from _trained(spec, name, config, data_root, output, pack)


def train_teacher(
    study: str, data_root: str | None, settings: Mapping[str, Value], output: str, pack: PackMode = "always"
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
            return spec.with_threads(spec.base).replace(
                {**changes, "student": model.model_dump(mode="json") | {"init": init}}
            )
        except ValidationError as error:
            fault = told(error.errors()[0])
    raise UserError(f"study '{spec.name}': its teacher cannot be trained with its base: {fault}")


def _trained(
    spec: StudySpec, stage: str, config: TrialConfig, data_root: str | None, output: str, pack: PackMode = "always"
) -> Iterator[str]:
    """Runs a trial in this process from where its journal says; the last line says where its weights are."""
    for path, reference in config.checkpoints().items():
        if reference.startswith(STAGE_REFERENCE):
            raise UserError(
                f"{path} is '{reference}', which another stage makes; give --teacher FILE, or launch the study"
            )
    check_country(spec.country_iso_code)
    where = Storage(output, spec.name)
    where.check_writable()
    planned = Planned(spec.name, stage, "base", config)
    yield f"{planned.trial_id}: {config.recipe.length}; files in {where.folder.uri}"
    past = where.record(planned.trial_id)
    row = past["row"] if past else {}
    if row.get("status") == "completed" and row.get("numerics") != NUMERICS:
        raise UserError(
            f"{where.folder.uri}: trial {planned.trial_id} was computed by a kdtune ({row['kdtune_version']}) whose "
            "numbers differ from this one's; give another folder with -o"
        )
    if row.get("status") != "completed":
        import torch  # here, because much of what can be wrong is told without it

        from kdtune.records.journal import follow
        from kdtune.training.energy_meter import metered_here

        if config.threads is not None:
            torch.set_num_threads(config.threads)
        with metered_here(spec.country_iso_code) as spent:
            for record in follow(planned, Site(data_folder(data_root), pack=pack), where, spent=spent):
                row, last = record["row"], record["history"][-1] if record["history"] else {}
                if row["status"] == "failed":
                    raise RunError(f"trial {row['trial_id']} failed: {row['error']}")
                miou = "diverged" if row["miou"] is None else f"mIoU {row['miou']:.2f}"
                loss = last.get("loss")
                told = "loss not finite" if loss is None else f"loss {loss:.4f}"
                yield f"step {row['step']}/{row['steps_total']}: {miou}, {told}"
    if row["status"] == "diverged":
        raise RunError(f"trial {row['trial_id']} diverged at step {row['step']}: a lower recipe.lr may help")
    if row["energy_kwh"] is not None:
        yield f"energy of its steps: {row['energy_kwh']:.3g} kWh, {row['co2_kg']:.3g} kg CO2-equivalent"
    note = absent_note(config.dataset.class_names, row["per_class_iou"])
    if note:
        yield note
    yield f"weights: {where.checkpoint_uri(planned.trial_id)}"
