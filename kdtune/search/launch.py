"""A launch: stage after stage, the best of one read back from the journal to start the next."""

import contextlib
import functools
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import kdtune
from kdtune.base import Lost, RunError, UserError
from kdtune.cluster import inspection, nodes, session
from kdtune.cluster.meters import Meters
from kdtune.cluster.session import Halt
from kdtune.filesystem.folder import absolute, read_file
from kdtune.filesystem.lock import Held
from kdtune.loading.pack import PackMode, dataset_root
from kdtune.records import rows
from kdtune.records.live_tables import TableWriter
from kdtune.records.logbook import stop_requests
from kdtune.records.progress import Reporter
from kdtune.records.storage import Record, Storage
from kdtune.search import stage as stage_runs
from kdtune.search.stage import StageRun
from kdtune.search.stage_context import Job, Point, point_of
from kdtune.study.spec import STAGE_REFERENCE, TEACHER, Stage, StudySpec, TrialConfig, WarmStart
from kdtune.training import energy, teachers, trial
from kdtune.training.trial import Part, Site

TAKEN_OVER = "another launch has taken this study over"
ENERGY_EVERY = 30.0  # seconds between two notes on storage of what the nodes used


@dataclass
class Launch:
    """One launch of a study, from the lock to the last table."""

    study: StudySpec
    storage: Storage
    data_root: str | None
    reporter: Reporter
    held: Held
    pack: PackMode = "always"
    halt: Halt = field(default_factory=Halt)
    joined: bool = False  # a cluster that was there, whose nodes may come and go
    own_root: bool = False  # whether a node's own KDTUNE_DATA_ROOT comes before ``data_root``
    keys: dict[Part, str] = field(default_factory=dict)  # content of every split, once the nodes were asked
    trainer: trial.Trainer = trial.run
    loggers: Sequence[str] = ()  # see ``kdtune.cluster.loggers``
    records: dict[str, Record] = field(default_factory=dict)
    plan: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)  # as written -> by content
    files: dict[str, str] = field(default_factory=dict)  # by content -> file or URI
    tables: TableWriter = field(init=False)
    meters: Meters | None = None
    used: dict[str, list[rows.Row]] = field(default_factory=dict)  # launch -> energy of its nodes
    _used_noted: float = 0.0
    _planned: set[str] = field(default_factory=set)  # the trials of the stage that runs
    _plan_changed: bool = False  # since it was written
    _told: set[str] = field(default_factory=set)  # datasets whose absent classes were named

    def __post_init__(self) -> None:
        self.tables = TableWriter(self.storage, self.study)

    def run(self, address: str | None, only: Sequence[str]) -> None:
        """All stages, or those named.

        Raises:
            UserError, RunError: see ``kdtune.api.launch``.
        """
        self.joined = address is not None
        self._read()
        self._locate_checkpoints(only)
        self._check_networks(only)
        with contextlib.ExitStack() as stack:
            stack.callback(self.reporter.close)
            stack.enter_context(stop_requests(self.storage.folder, self.halt.end))
            self.held.when_lost(lambda: self.halt.end("taken over", RunError(TAKEN_OVER)))
            begin = functools.cache(lambda: self._begin(address, only, stack))
            try:
                for stage in self._stages():
                    if not only or stage.name in only:
                        session.refuse_halted(self.halt)
                        self._stage(stage, begin)
                        self._warn_of_weak_teacher(stage)
                self._read_meters()
                self._write_tables()
            except OSError as error:
                raise self.storage.unusable(error) from error
            except (RunError, UserError) as error:
                with contextlib.suppress(OSError):  # the tables follow from the journal, and can be written again
                    if not isinstance(error, Lost):
                        self._read_meters()
                    self._write_tables()
                raise

    def _begin(self, address: str | None, only: Sequence[str], stack: contextlib.ExitStack) -> None:
        """Ray, once there is something to run: a study that is finished needs none."""
        energy.check_country(self.study.country_iso_code)
        if address is None:
            self._check_data(only, address)
        self.reporter.started(self.study, self.storage.folder.uri)
        dashboard = stack.enter_context(session.cluster(address, self.study.name, self.halt))
        # the signals last: Ray takes SIGTERM for itself when it starts
        stack.enter_context(session.interruptible(self.halt))
        self.reporter.ray_started(self.study, dashboard, session.has_gpu())
        meters = Meters(self.study.country_iso_code, self._metered, self.reporter.warn)
        self.meters = stack.enter_context(meters)
        if address is not None:
            self._check_data(only, address)

    def _metered(self, totals: Sequence[energy.Totals]) -> None:
        """Notes what the nodes used; on storage now and then, from a thread of the meters."""
        launch = self.held.token
        self.used[launch] = [{"study": self.study.name, "launch": launch} | each.row() for each in totals]
        if time.monotonic() - self._used_noted >= ENERGY_EVERY and not self.held.lost.is_set():
            self._used_noted = time.monotonic()
            self.storage.write_energy(launch, self.used[launch])

    def _read_meters(self) -> None:
        """The last reading of a launch."""
        if self.meters is not None:
            self._used_noted = 0.0
            self._metered(self.meters.read())

    def _read(self) -> None:
        """What earlier launches left, and what has changed since."""
        before = self.storage.read_study()
        self.used = self.storage.energy()
        self.tables.used(self._nodes)
        for record in self.storage.each_record():
            self._keep(record)
        stored = self.storage.plan()
        self.plan = {stage.name: [] for stage in self._stages()}
        self.plan |= {name: ids for name, ids in stored.items() if name in self.plan}
        self._plan_changed = self.plan != stored
        now = self.study.model_dump(mode="json")
        if before is not None and before != now:
            self.reporter.changed(differences(before, now))
        self.storage.write_study(self.study, versions())

    def _stages(self) -> list[Stage]:
        """The stages to run: a teacher that is given is not trained, but evaluated."""
        stages = list(self.study.stages)
        given = self._given_teachers()
        if not given:
            return stages
        # never used as the start of a stage: evaluating is a trial of no steps that starts from all of the weights
        evaluation = Stage(
            name=TEACHER,
            set={
                "student": given[0].teacher.model.model_dump(mode="json") | {"init": "random"},  # type: ignore[union-attr]
                "warm_start": WarmStart(checkpoint=given[0].teacher.checkpoint, part="all").model_dump(),  # type: ignore[union-attr]
                "teacher": None,
                "losses": {"ce": {"weight": 1.0}},
                "recipe.num_steps": 0,
            },
            scheduler="none",
        )
        others = [stage for stage in stages if stage.name != TEACHER]
        first = next(i for i, stage in enumerate(others) if self.study.templates()[stage.name].uses_teacher)
        return [*others[:first], evaluation, *others[first:]]

    def _given_teachers(self) -> list[TrialConfig]:
        """Templates of stages whose teacher is a file, not the work of another stage."""
        return [
            config
            for config in self.study.templates().values()
            if config.uses_teacher and config.teacher and not config.teacher.checkpoint.startswith(STAGE_REFERENCE)
        ]

    def _locate_checkpoints(self, only: Sequence[str]) -> None:
        """Files of weights by their content: a teacher is the same wherever it lies."""
        stages = [stage for stage in self.study.stages if not only or stage.name in only]
        for config in (config for stage in stages for config in self.study.loading(stage)):
            for path, reference in config.checkpoints().items():
                if reference in self.references or reference.startswith((STAGE_REFERENCE, "trial:", "sha256:")):
                    continue
                content = read_file(reference)
                if content is None:
                    raise UserError(teachers.absent(path, reference))
                by_content = f"sha256:{hashlib.sha256(content).hexdigest()}"
                self.references[reference] = by_content
                self.files[by_content] = absolute(reference)

    def _templates(self, only: Sequence[str]) -> list[TrialConfig]:
        return [config for name, config in self.study.templates().items() if not only or name in only]

    def _check_networks(self, only: Sequence[str]) -> None:
        """Builds each network of another package once: what a study says of it is seen only then."""
        wanted = {}
        for config in self._templates(only):
            for model in (config.student, config.teacher.model if config.uses_teacher and config.teacher else None):
                if model is not None and model.name == "external":
                    wanted[model.model_dump_json(), config.dataset.num_classes] = model
        for (_, classes), model in wanted.items():
            model.build(classes)

    def _datasets(self, only: Sequence[str]) -> list[TrialConfig]:
        """A configuration for every dataset that a trial of these stages may use."""
        found = {}
        for stage in (stage for stage in self.study.stages if not only or stage.name in only):
            for config in self.study.templates_of(stage):
                axes = {path: values for path, values in stage.grid.items() if path.split(".")[0] == "dataset"}
                changes = [{path: value} for path, values in axes.items() for value in values]
                for each in (config, *map(config.replace, changes)):
                    found[each.dataset.model_dump_json()] = each
        return list(found.values())

    def _check_data(self, only: Sequence[str], address: str | None) -> None:
        """Every node that trials may run on packs every dataset, looks at every label, and must have the same data."""
        configs = self._datasets(only)
        for config in configs if address is None else ():  # what is missing is said before anything else
            root = dataset_root(config.dataset, self.data_root)
            config.dataset.samples("train", root)
            config.dataset.samples("val", root)
        self.reporter.note(f"reading {', '.join(sorted({config.dataset.name for config in configs}))}")
        with session.promptly():
            if address is None:
                answers = [inspection.Answer(platform.node(), inspection.look(configs, self._site))]
            else:
                answers = nodes.ask(configs, self._site, self.reporter)
        self.keys = inspection.settle(self.storage, self.records, answers)

    @property
    def _site(self) -> Site:
        return Site(self.data_root, pack=self.pack, own_root=self.own_root, keys=self.keys)

    def _stage(self, stage: Stage, begin: Callable[[], None]) -> None:
        job = self._job(stage)
        points: dict[str, Point] = {}
        if stage.search != "tpe":
            for point in stage.points(list(job.starts), self.study.seed):
                points.setdefault(job.planned(point).trial_id, point)
            self._set_plan(stage.name, list(points))
        else:
            self._set_plan(stage.name, self._drawn(job))
        name = self.study.scheduler_of(stage)
        past = {id_: self.records[id_] for id_ in self.plan[stage.name] if id_ in self.records}
        left = [p for id_, p in points.items() if id_ not in past or not stage_runs.finished(past[id_], name)]
        size = len(points) or stage.samples or 0
        done = sum(stage_runs.finished(record, name) for record in past.values())
        template = self.study.templates().get(stage.name)
        num_steps = template.recipe.num_steps if template else 0
        more = bool(left) or (stage.search == "tpe" and done < size)
        if more:
            begin()
        self.reporter.stage_started(stage.name, size, done, num_steps)
        if more:
            share = session.share(self.study, stage, size, joined=self.joined)
            if share.gpus and not session.has_gpu():
                self.reporter.warn(f"{stage.name}: no node has a GPU yet; trials wait until an autoscaler starts some")
            site = replace(job.site, keys=self.keys)
            job = replace(job, threads=share.threads, gpus=share.gpus, site=site, followed=bool(self.loggers))
            run = StageRun(self.study, job, past, share, self.halt, self.reporter, self._ended, self.loggers)
            stage_runs.run_stage(run, left, num_steps)
        self._write_tables()
        self.reporter.stage_ended(stage.name, self._best(stage.name))
        self._name_absent_classes(stage)

    def _job(self, stage: Stage) -> Job:
        starts = {name: self._start(name) for name in stage.start_from} or {"base": self.study.base}
        references = self.references | self._made_weights(stage)
        configs = [*starts.values(), *self.study.loading(stage)]
        return Job(
            study=self.study.name,
            stage=stage,
            starts=starts,
            references=references,
            site=replace(self._site, files=self.files | self._weights_files(configs, references.values())),
            storage=self.storage,
            threads=1,
            token=self.held.token,
            trainer=self.trainer,
        )

    def _made_weights(self, stage: Stage) -> dict[str, str]:
        """``stage:NAME`` -> ``trial:ID`` of that stage's best trial, for the references of this stage."""
        made = {}
        template = self.study.templates().get(stage.name)
        for reference in template.checkpoints().values() if template else ():
            if reference.startswith(STAGE_REFERENCE):
                name = reference.removeprefix(STAGE_REFERENCE)
                made[reference] = f"trial:{self._winners(name)[0]['trial_id']}"
        return made

    def _weights_files(self, configs: Sequence[TrialConfig], references: Iterable[str]) -> dict[str, str]:
        """Of the trials that these name, used or not; of all trials they would go to a worker with every trial."""
        parts = [part for config in configs for part in (config.teacher, config.warm_start) if part is not None]
        named = {*references, *(part.checkpoint for part in parts)}
        ids = [reference.removeprefix("trial:") for reference in named if reference.startswith("trial:")]
        return {f"trial:{id_}": self.storage.checkpoint_uri(id_) for id_ in ids}

    def _start(self, name: str) -> TrialConfig:
        return TrialConfig.model_validate_json(self._winners(name)[0]["config"])

    def _winners(self, name: str) -> list[rows.Row]:
        """The rows of a stage's best configuration.

        Raises:
            RunError: it has none.
        """
        best = self._best(name)
        if not best:
            trials = [self.records[id_]["row"] for id_ in self.plan.get(name, []) if id_ in self.records]
            counts = {s: sum(r["status"] == s for r in trials) for s in ("completed", "stopped", "diverged", "failed")}
            told = ", ".join(f"{n} {s}" for s, n in counts.items() if n) or "none has run"
            errors = [row["error"] for row in trials if row["error"]]
            first = f"; first error: {errors[0]}" if errors else ""
            raise RunError(f"stage '{name}' has no completed configuration to go on from ({told}){first}")
        return best

    def _best(self, name: str) -> list[rows.Row]:
        ids = self.plan.get(name, [])
        known = [self.records[id_]["row"] for id_ in ids if id_ in self.records]
        return rows.best_config(known, seeds=self._seeds.get(name, 1))

    @property
    def _seeds(self) -> dict[str, int]:
        return {stage.name: len(stage.seeds) for stage in self.study.stages}

    def _drawn(self, job: Job) -> list[str]:
        """The ids of earlier TPE trials that this stage, as it stands, could have drawn."""
        found = []
        for id_, record in self.records.items():
            row = record["row"]
            if row["stage"] == job.stage.name and row["start"] in job.starts:
                point = point_of(record, job.stage)
                if _within(point, job.stage) and job.planned(point).trial_id == id_:
                    found.append(id_)
        return sorted(found, key=lambda id_: self.records[id_]["row"]["finished_at"] or math.inf)

    def _set_plan(self, name: str, ids: list[str]) -> None:
        self._planned = set(ids)
        gone = [id_ for id_ in self.plan.get(name, []) if id_ not in self._planned]
        if gone:
            self.reporter.superseded(name, len(gone))
        self._plan_changed |= self.plan.get(name) != ids
        self.plan[name] = ids
        self._write_plan()

    def _keep(self, record: Record) -> None:
        """Of a trial's history the launch needs what a scheduler compares; all of it is in the tables."""
        self.tables.add(record)
        short = [{"step": entry["step"], "miou": entry["miou"]} for entry in record["history"]]
        self.records[record["row"]["trial_id"]] = record | {"history": short}

    def _write_plan(self) -> None:
        if self._plan_changed:
            self.storage.write_plan(self.plan)
            self._plan_changed = False

    def _ended(self, record: Record) -> None:
        row = record["row"]
        self._keep(record)
        if row["trial_id"] not in self._planned:  # drawn by TPE; were its place in the plan lost, _drawn would find it
            self._planned.add(row["trial_id"])
            self.plan[row["stage"]].append(row["trial_id"])
            self._plan_changed = True
        if self.tables.due() and not self.held.lost.is_set():
            self._write_tables()

    @property
    def _nodes(self) -> list[rows.Row]:
        return [node for _, nodes in sorted(self.used.items()) for node in nodes]

    def _write_tables(self) -> None:
        if self.held.lost.is_set():
            raise RunError(TAKEN_OVER)
        self._write_plan()
        self.tables.used(self._nodes)
        took = self.tables.write(self.plan)
        if took is not None:
            self.reporter.tables_written(took)

    def _name_absent_classes(self, stage: Stage) -> None:
        """Once for each dataset: they hardly differ from trial to trial, and ``per_class_iou`` has them all."""
        for row in self._best(stage.name)[:1]:
            dataset = TrialConfig.model_validate_json(row["config"]).dataset
            note = rows.absent_note(dataset.class_names, row["per_class_iou"], most=10)
            if note and dataset.name not in self._told:
                self._told.add(dataset.name)
                self.reporter.note(f"{stage.name}: {note}")

    def _warn_of_weak_teacher(self, stage: Stage) -> None:
        """The surest sign of wrong preprocessing: a teacher that does not beat the student."""
        teacher, student = self._best(TEACHER), self._best("student")
        if stage.name in (TEACHER, "student") and teacher and student:
            best = rows.mean_std([row["miou"] for row in student])[0]
            if teacher[0]["miou"] <= best:
                self.reporter.warn(
                    f"the teacher's mIoU of {teacher[0]['miou']:.2f} does not beat the student's {best:.2f}: check its "
                    "checkpoint, its preprocessing and its recipe before believing any distilled result"
                )


def _within(point: Point, stage: Stage) -> bool:
    chosen = all(point[path] in values for path, values in stage.grid.items() if path in point)
    ranges = {path: axis for path, axis in stage.ranges.items() if path in point}
    return chosen and all(axis.low <= point[path] <= axis.high for path, axis in ranges.items())


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted paths at which two studies differ; a stage goes by its name."""
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(x, dict) for x in [*before, *now]):
        before, now = ({x.get("name", i): x for i, x in enumerate(side)} for side in (before, now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*before, *now])
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{prefix}{key}.")]
    return [] if before == now else [prefix.rstrip(".")]


def versions() -> dict[str, str | None]:
    """Of everything that can change a number."""
    import torch  # imported already, by what runs the trials

    packages = {name: version(name) for name in ("torchvision", "ray", "pyarrow", "optuna")}
    return {
        "kdtune": kdtune.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        **packages,
    }
