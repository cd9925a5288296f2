"""``kdtune best``: the weights of a study's winner in a file of their own, with its record and a model card."""

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kdtune.answers.model_card import Given, card
from kdtune.answers.query import gathered, study_name
from kdtune.answers.tables import Tables
from kdtune.answers.term_facts import basis
from kdtune.answers.winner import Winner, winner
from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, absolute
from kdtune.losses.marks import FOOTNOTE, marked
from kdtune.records.storage import WEIGHTS
from kdtune.records.stored_study import StoredStudy, storage_root
from kdtune.study.faults import told
from kdtune.study.names import TRIAL_ID, is_distilled
from kdtune.study.trial_config import TrialConfig

if TYPE_CHECKING:
    from kdtune.training.weights import Weights

SUFFIX = ".safetensors"


def hand_out(study: str, storage: str | None, stage: str | None, method: str | None, output: str) -> Iterator[str]:
    """Writes the winner's weights to ``output`` and its card beside it; yields what they are.

    ``stage``, ``method``: see ``winner``.

    Raises:
        UserError: no such study, stage or method, no winner yet, its weights are not there or damaged, or the file
            cannot be written.
    """
    folder, name = Folder(absolute(output)).split()
    if not name.endswith(SUFFIX):
        raise UserError(f"-o {output}: the output is a safetensors file: give it a name that ends so")
    where = StoredStudy(storage_root(storage), study_name(study), study)
    found = gathered([where], history=False, superseded=False)
    best = winner(where.study, found, stage, method, where.words)
    config = _config(best)
    from kdtune.training.weights import read_record, recorded_bytes  # torch, which what goes wrong before needs not
    from kdtune.training.weights_record import record_of

    file, weights = _weights(where, best)
    record = record_of(config, {"study": where.study, "trial": best.row["trial_id"]}, _result(best))
    theirs = read_record(file)
    if theirs is not None and (theirs.model, theirs.num_classes) != (record.model, record.num_classes):
        raise UserError(f"{file}: its record names another network than the trial's configuration; get it again")
    content = recorded_bytes(weights, record)
    given = Given(
        file=name,
        megabytes=len(content) / 1e6,
        parameters=sum(value.numel() for value in weights.values()),
        study=where.study,
        winner=best,
        config=config,
        search=_search(found),
    )
    beside = f"{name.removesuffix(SUFFIX)}.md"
    try:
        folder.write(name, content)
        folder.write(beside, card(given).encode())
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from None
    yield f"stage {best.row['stage']}, method {marked(best.row['method'])}, trial {best.row['trial_id']}"
    if marked(best.row["method"]) != best.row["method"]:
        yield FOOTNOTE
    yield f"mIoU {best.row['miou']:.2f} %{_over_seeds(best)}"
    yield f"weights: {output}"
    yield f"card: {(folder / beside).uri}"


def _over_seeds(best: Winner) -> str:
    if best.deviation is None:
        return "; one seed"
    return f"; over {len(best.seeds)} seeds {best.mean:.2f} ± {best.deviation:.2f} %"


def _config(best: Winner) -> TrialConfig:
    try:
        return TrialConfig.model_validate_json(best.row["config"])
    except ValidationError as error:
        fault = told(error.errors()[0])
        raise UserError(f"trial {best.row['trial_id']}: its configuration cannot be read here: {fault}") from None


def _weights(where: StoredStudy, best: Winner) -> "tuple[str, Weights]":
    """The file of the winner's weights, and what it holds."""
    from kdtune.training.weights import read_noted, read_weights

    trial_id, noted = best.row["trial_id"], best.row.get("weights_sha256")
    if not re.fullmatch(TRIAL_ID, trial_id):  # what others wrote stands in no command
        raise UserError(f"'{trial_id}' is no id of a trial")
    folder = where.folder / "checkpoints" / trial_id
    file, again = (folder / WEIGHTS).uri, f"`kdtune launch {where.words} --again {trial_id}` runs it again"
    if not folder.exists(WEIGHTS):
        raise UserError(f"{file}: no such file: `kdtune pull --checkpoints` brings the weights, too; else {again}")
    if noted and read_noted(file) != noted:
        raise UserError(f"{file}: not the weights that the trial left; {again}")
    return file, read_weights(file)


def _result(best: Winner) -> dict[str, object]:
    """What the record says of the score; numbers are mIoU in percent."""
    row = best.row
    found: dict[str, object] = {"stage": row["stage"], "method": row["method"], "seed": row["seed"]}
    found |= {"basis": basis(row["method"])} if is_distilled(row["method"]) else {}
    found |= {"miou": row["miou"], "per_class_iou": row["per_class_iou"], "seeds": len(best.seeds)}
    found |= {"miou_mean": best.mean, "miou_std": best.deviation}
    found |= {"mean_interval": best.interval, "images_interval": best.images}
    gain = dataclasses.asdict(best.gain) if best.gain is not None else {}
    return found | {"gain_student": {key: gain[key] for key in ("difference", "low", "high", "p") if key in gain}}


def _search(found: Tables) -> dict[str, float]:
    known = [value for value in found.trials["energy_kwh"].to_pylist() if value is not None]
    return {"trials": float(found.trials.num_rows)} | ({"kwh": sum(known)} if known else {})
