"""Files of others, bent at random: what reads them says one line, or takes them; it never breaks.

``KDTUNE_FUZZ=20000 pytest -n 0 tests/test_fuzz.py`` tries so many of each kind; a few are tried by default.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdtune.answers import query
from kdtune.answers.other_images import run_of
from kdtune.base import RunError, UserError
from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.datasets.synth import write_synthetic
from kdtune.datasets.voc import Voc
from kdtune.filesystem.lock import Held
from kdtune.records import status, status_lines, study_list
from kdtune.records.journal_files import decoded, encoded
from kdtune.records.launched import Launched, read_launch, write_launch
from kdtune.records.progress import Reporter
from kdtune.records.storage import IMAGE_COUNTS, Storage
from kdtune.search.added_seeds import with_kept_seeds
from kdtune.search.changes import differences
from kdtune.search.dry_run import forecast
from kdtune.search.ledger import Ledger
from kdtune.search.threads import known
from kdtune.study.file import read as read_study
from kdtune.study.settings import parse_set
from kdtune.training.weights import WeightsRecord, read_header, read_record, read_weights, weights_bytes
from tests.support.image_counts import drawn
from tests.support.tiny import config

EXAMPLES = int(os.environ.get("KDTUNE_FUZZ", "6"))
STUDY = synthetic_study(3, "fuzzed")
COUNTED = "final-0123456789-s1"  # a trial with counts over images


def gently(action: Callable[[], object]) -> None:
    """Does it; an error may only be one for people, which a command prints as one line."""
    with contextlib.suppress(UserError, RunError):
        action()


@dataclass(repr=False)
class Place:
    """A finished study, and images, of which tests bend one file at a time."""

    root: Path
    seeds: dict[str, bytes]

    @property
    def storage(self) -> Storage:
        return Storage(str(self.root), STUDY.name)

    def path(self, name: str) -> Path:
        """The file, whole again."""
        path = self.root / name
        path.write_bytes(self.seeds[name])
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("fuzz")
    storage = Storage(str(root), STUDY.name)
    fill(storage, STUDY)
    write_launch(storage.folder, Launched("2026-01-01T00:00:00+00:00", host="head", pid=1, ended_at="2026-01-02"))
    storage.write_energy(
        "2026", [{"study": STUDY.name, "launch": "2026", "node": "a", "energy_kwh": 1.0, "co2_kg": 0.5}]
    )
    storage.write_image_counts(COUNTED, drawn([0.5] * 12, 12, 1))
    record = WeightsRecord(model={"name": "pspnet"}, num_classes=12)
    (root / "weights.safetensors").write_bytes(weights_bytes(config().student.build(12), record))
    write_synthetic("voc", root / "voc", 2, (24, 32))
    shutil.copy(Path(__file__).parent.parent / "search_spaces" / "demo.yaml", root / "demo.yaml")
    return Place(root, {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()})


def journal(place: Place) -> str:
    return next(name for name in sorted(place.seeds) if "/journal/" in name)


def before_a_launch(where: Storage) -> None:
    """What a launch takes from the study that was launched last."""
    before = where.read_study()
    study = known(with_kept_seeds(STUDY, before), before, where.each_record()).study
    differences(before, study.model_dump(mode="json"))


def look(place: Place) -> None:
    """All that reads a study."""
    where = place.storage
    gently(lambda: status_lines.lines(status.status_of(where)))
    gently(lambda: forecast(STUDY, where))
    gently(lambda: before_a_launch(where))
    gently(lambda: study_list.lines(study_list.listed(str(place.root))))
    gently(lambda: Ledger(STUDY, where, STUDY.stages, Held("t"), Reporter()).past_with_histories("student"))
    for table in ("optimal", "trials"):
        shown = partial(query.table_in_format, STUDY.name, where.root, table, "text")
        gently(partial(shown, published=False, compare=False, styled=False))


# bytes

changes = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["set", "cut", "insert", "repeat", "drop"]),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=6,
)


def bent(content: bytes, how: list[tuple[float, str, bytes]]) -> bytes:
    made = bytearray(content)
    for share, kind, piece in how:
        at = int(share * len(made))
        if kind == "set":
            made[at : at + len(piece)] = piece
        elif kind == "cut":
            del made[at:]
        elif kind == "insert":
            made[at:at] = piece
        elif kind == "repeat":
            made[at:at] = made[at : at + 64]
        else:
            del made[at : at + len(piece)]
    return bytes(made)


IMAGES = {"image": "JPEGImages", "label": "SegmentationClass"}


def voc(place: Place) -> None:
    data = Voc(name="voc")
    for sample in data.samples("train", place.root / "voc"):
        data.read("train", sample)


def weights(place: Place) -> None:
    uri = str(place.root / "weights.safetensors")
    gently(lambda: read_record(uri))
    gently(lambda: read_header(uri))
    gently(lambda: read_weights(uri))


def image_counts(place: Place) -> None:
    """With the digest of what is there: no check but that of its form keeps it from being read."""
    content = (place.storage.folder / "checkpoints" / COUNTED).read(IMAGE_COUNTS) or b""
    row = {
        "trial_id": "t",
        "config": '{"recipe": {"absent_classes": "skip"}}',
        "per_class_iou": [1.0] * 12,
        "miou": 1.0,
    }
    gently(lambda: run_of(row, place.storage.image_counts(COUNTED, hashlib.sha256(content).hexdigest())))


def study_file(place: Place) -> None:
    faults, _ = read_study(place.root / "demo.yaml")
    assert not [fault for fault in faults if "\n" in fault]


FILES: dict[str, tuple[Callable[[Place], str], Callable[[Place], None]]] = {
    "study": (lambda place: "demo.yaml", study_file),
    "stored study": (lambda place: f"{STUDY.name}/study.yaml", look),
    "journal": (journal, look),
    "plan": (lambda place: f"{STUDY.name}/plan.json", look),
    "launch": (lambda place: f"{STUDY.name}/launch.json", look),
    "digests": (lambda place: f"{STUDY.name}/digests.json", look),
    "energy": (lambda place: f"{STUDY.name}/energy/2026.json", look),
    "trials": (lambda place: f"{STUDY.name}/trials.parquet", look),
    "optimal": (lambda place: f"{STUDY.name}/optimal.parquet", look),
    "history": (lambda place: f"{STUDY.name}/history.parquet", look),
    "image counts": (lambda place: f"{STUDY.name}/checkpoints/{COUNTED}/{IMAGE_COUNTS}", image_counts),
    "weights": (lambda place: "weights.safetensors", weights),
    "image": (lambda place: next(n for n in sorted(place.seeds) if "JPEGImages" in n), voc),
    "label": (lambda place: next(n for n in sorted(place.seeds) if "SegmentationClass/" in n), voc),
    "list": (lambda place: next(n for n in sorted(place.seeds) if n.endswith("train.txt")), voc),
}
often = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("digested", [True, False])
@often
@given(how=changes)
def test_bytes(place: Place, kind: str, digested: bool, how: list[tuple[float, str, bytes]]) -> None:
    """``digested``: with the digest beside it, which would else keep a changed table from being read."""
    find, act = FILES[kind]
    path = place.path(find(place))
    digests = place.path(f"{STUDY.name}/digests.json")
    if not digested:
        digests.write_bytes(b"{}")
    path.write_bytes(bent(path.read_bytes(), how))
    try:
        gently(lambda: act(place))
    finally:
        place.path(find(place))
        place.path(f"{STUDY.name}/digests.json")


# JSON

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(found: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = found.items() if isinstance(found, dict) else enumerate(found[:3]) if isinstance(found, list) else ()
    return [above, *(path for key, value in inner for path in paths(value, (*above, key)))]


def replaced(found: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    found[path[0]] = replaced(found[path[0]], path[1:], value)
    return found


JSON = {
    "stored study": lambda place: f"{STUDY.name}/study.yaml",  # JSON is YAML
    "journal": journal,
    "plan": lambda place: f"{STUDY.name}/plan.json",
    "launch": lambda place: f"{STUDY.name}/launch.json",
    "digests": lambda place: f"{STUDY.name}/digests.json",
    "energy": lambda place: f"{STUDY.name}/energy/2026.json",
    "signs": lambda place: f"{STUDY.name}/signs.json",
    "lock": lambda place: f"{STUDY.name}/lock.json",
}


@pytest.mark.parametrize("kind", JSON)
@often
@given(share=st.floats(0, 1, exclude_max=True), value=anything)
def test_values(place: Place, kind: str, share: float, value: Any) -> None:
    """Whole JSON in which one value is another, under a digest that fits."""
    name = JSON[kind](place)
    made = {"stalled": {"student-1": "for ever"}, "waiting": "a GPU", "since": 1.0} if kind == "signs" else {}
    made |= {"host": "h", "machine": "m", "pid": 1, "created": 1.0, "token": "t", "since": "2026"} if not made else {}
    place.seeds.setdefault(name, json.dumps(made).encode())
    path = place.path(name)
    parse = {"journal": decoded, "stored study": yaml.safe_load}.get(kind, json.loads)
    found = parse(path.read_bytes())  # type: ignore[operator]
    known = paths(found)
    made = replaced(found, known[int(share * len(known))], value)
    try:
        content = encoded(made) if kind == "journal" and isinstance(made, dict) else json.dumps(made).encode()
    except ValueError:
        return  # NaN, which a journal is never given
    path.write_bytes(content)
    try:
        if kind == "launch":
            gently(lambda: read_launch(place.storage.folder))
        look(place)
    finally:
        place.path(name)
        if name.endswith(("signs.json", "lock.json")):
            path.unlink()


# tables

kinds = st.sampled_from([pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.null(), pa.list_(pa.string())])


@pytest.mark.parametrize("name", ["trials", "history", "optimal", "final", "emissions", "nodes"])
@often
@given(column=st.integers(0, 40), kind=kinds, drop=st.booleans())
def test_columns(place: Place, name: str, column: int, kind: pa.DataType, drop: bool) -> None:
    """A table without a column, or with one of another type, under a digest that fits."""
    table = place.storage.table(name)
    at = column % len(table.column_names)
    made = table.remove_column(at)
    if not drop:
        made = table.set_column(at, table.column_names[at], pa.nulls(len(table), kind))
    place.storage.write_tables({name: made})
    try:
        look(place)
    finally:
        place.path(f"{STUDY.name}/{name}.parquet")
        place.path(f"{STUDY.name}/digests.json")


@often
@given(text=st.text(alphabet="[]{},:&*!|>'\"\\#%@-?~0123456789.eE xyn\n\t=", max_size=40))
def test_values_of_set(text: str) -> None:
    gently(lambda: parse_set([text]))
    gently(lambda: parse_set([f"recipe.lr={text}"]))


def test_what_was_found_before(place: Place) -> None:
    """A time that is none, a text that is none, and a column's name that is none."""
    path = place.path(f"{STUDY.name}/launch.json")
    path.write_bytes(path.read_bytes().replace(b"2026-01-01T", b"when?-01-01T"))
    look(place)
    path.write_bytes(place.seeds[f"{STUDY.name}/launch.json"])
    path = place.path(f"{STUDY.name}/optimal.parquet")
    place.path(f"{STUDY.name}/digests.json").write_bytes(b"{}")
    path.write_bytes(path.read_bytes().replace(b"trials_stopped", b"trials\x80stopped"))
    with pytest.raises(UserError, match=r"optimal\.parquet: damaged"):
        place.storage.table("optimal")
    place.path(f"{STUDY.name}/optimal.parquet")
    place.path(f"{STUDY.name}/digests.json")
    table = place.storage.table("optimal")
    broken = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
    place.storage.write_tables({"optimal": table.set_column(0, "study", broken)})
    try:
        with pytest.raises(UserError, match=r"optimal\.parquet: damaged"):
            place.storage.table("optimal")
    finally:
        place.path(f"{STUDY.name}/optimal.parquet")
        place.path(f"{STUDY.name}/digests.json")


def test_this_file_bends_what_it_says() -> None:
    assert bent(b"abcdef", [(0.5, "cut", b"x")]) == b"abc"
    assert bent(b"abcdef", [(0.0, "set", b"xy"), (0.9, "insert", b"!")]) == b"xycde!f"
    assert io.BytesIO(encoded({"a": 1})).read().startswith(b'{"sha256"')
