"""A study as the report reads it from storage, and how its tables are written."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from kdtune.answers import published, significance, tables
from kdtune.answers.cells import loss_symbol, parameter, parameter_words
from kdtune.answers.columns import loss_columns
from kdtune.answers.comparison import compare
from kdtune.answers.final_tables import comparison_plan
from kdtune.answers.planned_grid import PlannedStudy
from kdtune.answers.ranking import Row
from kdtune.answers.significance import Gain
from kdtune.base import UserError
from kdtune.losses.marks import marked
from kdtune.records.storage import Storage
from kdtune.report import facts
from kdtune.report.facts import ALONE, Contender
from kdtune.report.page import details, note, table
from kdtune.report.thinning import best_lines
from kdtune.study.names import VARIANTS
from kdtune.study.spec import StudySpec

LONG = ("optimal", "trials", "final")  # tables of many columns
FIRST = (  # of them: what a reader looks for
    "study", "stage", "method", "status", "miou", "miou_mean", "miou_std", "seeds", "gain_student", "gain_student_low",
    "gain_student_high", "p_student",
)  # fmt: skip
ENDS = ("", "_low", "_high", "_images_low", "_images_high")
SHOWN = {
    **dict.fromkeys(("miou", "miou_mean", "miou_std", "miou_best", "miou_low", "miou_high"), ".2f"),
    **dict.fromkeys(("low", "high"), ".2f"),
    **dict.fromkeys(("miou_published", "miou_mean_published", "miou_std_published"), ".2f"),
    **dict.fromkeys(("miou_difference", "miou_mean_difference"), "+.2f"),
    **dict.fromkeys(("student", "distilled", "teacher"), ".2f"),
    **dict.fromkeys((f"gain_{of}{end}" for of in ("student", "pi") for end in ENDS), "+.2f"),
    **dict.fromkeys((f"{name}_{of}" for of in ("student", "pi") for name in ("deviation", "least_gain")), ".2f"),
    **dict.fromkeys(("p", *(f"{name}_{of}" for of in ("student", "pi") for name in ("p", "scatter_p"))), ".2g"),
    "difference": "+.2f",
    **dict.fromkeys(("apart", "lead", "lead_by_chance", "miou_student_published"), ".2f"),
    **dict.fromkeys((f"miou_{name}" for name in (ALONE, *VARIANTS)), ".2f"),
    "lr": ".3g",
    "weight_decay": ".3g",
    **dict.fromkeys(("train_seconds", "train_seconds_low", "train_seconds_high"), ".1f"),
    "peak_memory_mb": ".0f",
    "images_per_second": ".1f",
    **dict.fromkeys(("kwh_not_used", "inference_kwh", "inference_co2_kg"), ".3g"),
    **dict.fromkeys((f"{part}_kwh" for part in ("trials", "idle", "cpu", "ram", "gpu")), ".3g"),
}
UNITS = {"kwh": "kWh", "kg": "kg", "seconds": "s", "mb": "MB"}  # as the names of columns end
LABELS = {
    "p_holm": "p, Holm",
    "meter_cpu_seconds": "processor time of the meter [s]",
    "weights_sha256": "SHA-256 of the weights",
    "image_counts_sha256": "SHA-256 of the images' counts",
    "co2_kg": "CO2-equivalent [kg]",
    "miou": "mIoU [%]",
    "miou_mean": "mIoU, mean [%]",
    "miou_std": "standard deviation",
    "miou_best": "highest mIoU [%]",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "energy_kwh": "energy [kWh]",
    "train_seconds": "training [s]",
    **{f"{name}_low": "95 % interval from" for name in ("miou", "train_seconds", "energy_kwh")},
    **{f"{name}_high": "to" for name in ("miou", "train_seconds", "energy_kwh")},
    "front": "unbeaten",
    "images_per_second": "images/s",
    "peak_memory_mb": "memory [MB]",
    "gain_student": "gain over the student alone [points]",
    "gain_student_low": "95 % interval from",
    "gain_student_high": "to",
    "p_student": "p",
    "tuning_trials": "trials that chose it",
    "apart": "groups differ from [points]",
    "lead": "above the mean of all [points]",
    "lead_by_chance": "of which by chance alone",
    "miou_student": "student alone [%]",
    **{f"miou_{name}": f"student alone, {words} [%]" for name, words in VARIANTS.items()},
    "miou_student_published": "student alone, published [%]",
    "miou_mean_published": "published [%]",
    "weights_as_published": "weights as published",
    "factor": "factor of the published weights",
    "tuning_steps": "their steps",
    "provisional_student": "provisional",
    "family_student": "comparisons at once",
    "analysis_student": "deviation",
    "deviation_student": "deviation of a run [points]",
    "scatter_p_student": "p of a like scatter",
    "least_gain_student": "gain found in 80 % [points]",
    "seeds_needed_student": "seeds that half a point needs",
    "paired_student": "paired",
    **{f"gain_{of}_images_low": "on other images from" for of in ("student", "pi")},
    **{f"gain_{of}_images_high": "to" for of in ("student", "pi")},
    **{f"images_{of}": "over" for of in ("student", "pi")},
    "verdict_student": "in words",
    "gain_pi": "gain over L_PI alone [points]",
    "gain_pi_low": "95 % interval from",
    "gain_pi_high": "to",
    "p_pi": "p",
    "provisional_pi": "provisional",
    "family_pi": "comparisons at once",
    "analysis_pi": "deviation",
    "deviation_pi": "deviation of a run [points]",
    "scatter_p_pi": "p of a like scatter",
    "least_gain_pi": "gain found in 80 % [points]",
    "seeds_needed_pi": "seeds that half a point needs",
    "paired_pi": "paired",
    "verdict_pi": "in words",
    "difference": "gain [points]",
    "low": "95 % interval from [points]",
    "high": "to [points]",
    "within_one_std": "within one deviation of the best",
    "student": "student [%]",
    "distilled": "distilled [%]",
    "teacher": "teacher [%]",
    "steps_total": "of steps",
    "trials_stopped": "stopped early",
    "steps_not_run": "steps spared",
    "kwh_not_used": "energy spared [kWh]",
    "inference_kwh": "evaluations [kWh]",
    "inference_co2_kg": "evaluations, CO2-equivalent [kg]",
    "inference_images": "images evaluated",
    "trials_kwh": "of trials [kWh]",
    "idle_kwh": "idle [kWh]",
    "cpu_kwh": "processors [kWh]",
    "ram_kwh": "memory [kWh]",
    "gpu_kwh": "GPUs [kWh]",
    "trial_id": "trial",
    "init": "initial weights",
}


@dataclass(frozen=True)
class Study:
    """All that the report shows of a study."""

    where: Storage
    data_root: str | None
    stored: tables.Tables
    text: str  # of study.yaml
    spec: StudySpec | None  # none: study.yaml is missing, or of another version of kdtune
    versions: Mapping[str, Any]
    plan: Mapping[str, Sequence[str]]
    made: set[str]  # stages that only make weights
    nodes: pa.Table | None  # energy by node
    entropy: tuple[pa.Table, Callable[[pa.Table], Any]] | None  # the teacher's, and what draws it
    builders: Collection[str] = ()  # of other packages' networks, that the user's own study file names
    _made: dict[str, pa.Table] = field(default_factory=dict)  # tables of ``kdtune results``

    @property
    def name(self) -> str:
        """The study's."""
        return self.where.study

    @cached_property
    def trials(self) -> list[Row]:
        """The trials on record."""
        rows: list[Row] = self.stored.trials.to_pylist()
        return rows

    @cached_property
    def stages(self) -> dict[str, list[Row]]:
        """Stage -> its trials on record, in the order of the plan."""
        found: dict[str, list[Row]] = {}
        for row in self.trials:
            found.setdefault(row["stage"], []).append(row)
        return found

    @property
    def planned(self) -> PlannedStudy:
        """What the study planned, as far as its file can be read."""
        return self.stored.planned.get(self.name, PlannedStudy(self.name))

    @cached_property
    def contenders(self) -> list[Contender]:
        """Student, distilled student, teacher."""
        seeds = {stage.name: len(stage.seeds) for stage in self.spec.stages} if self.spec else {}
        return facts.contenders(self.trials, self.made, seeds)

    @cached_property
    def primary(self) -> significance.Family | None:
        """The comparison of each method with the student alone; none before stage ``final`` has a trial."""
        found = significance.families(self.stored.trials, comparison_plan(self.planned))
        return next((family for family in found if family.reference == ALONE), None)

    @property
    def gains(self) -> Sequence[Gain]:
        """What each method gains on the student alone."""
        return self.primary.gains if self.primary else ()

    def table(self, name: str) -> pa.Table:
        """A table of ``kdtune results``."""
        if name not in self._made:
            self._made[name] = tables.table(name, self.stored, self.name)
        return self._made[name]

    def paper(self, name: str) -> list[Row]:
        """A table of the paper; empty if this is not one of its studies, or it prints none."""
        try:
            rows: list[Row] = published.published(self.name, name).to_pylist()
        except UserError:
            return []
        return rows

    def shown(self, name: str) -> str:
        """A table of ``kdtune results`` as HTML, with the paper's beside it where it prints one."""
        own = written(self.table(name), name)
        if not self.paper(name):
            return own
        both = compare(name, self.table(name), published.published(self.name, name))
        return own + details("beside the paper's values", written(both, f"{name}-published"))


def heading(column: str) -> str:
    """A column that has no label of its own, in words: ``critic lr of HO`` for a parameter of a term."""
    if parameter(column) is not None:
        return parameter_words(column) or column
    words, _, last = column.rpartition("_")
    return f"{words.replace('_', ' ')} [{UNITS[last]}]" if words and last in UNITS else column.replace("_", " ")


def written(data: pa.Table, name: str) -> str:
    """A table as HTML, of a long one its best lines; ``name`` is for programs."""
    data, left_out = best_lines(data)
    if name in LONG:
        data = data.select(sorted(data.column_names, key=lambda column: column not in FIRST))
    if "method" in data.column_names:
        methods = [method and marked(method) for method in data["method"].to_pylist()]
        data = data.set_column(data.column_names.index("method"), "method", pa.array(methods, pa.string()))
    labels = {column: heading(column) for column in data.column_names}
    labels |= {column: f"λ {loss_symbol(column)}" for column in loss_columns(data)}
    shown = table(data, name, shown=SHOWN, labels=labels | LABELS, without=("study",))
    return note(left_out) + shown if left_out else shown
