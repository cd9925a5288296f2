"""The confusion matrix of each image: as the network's answers have it, to a file and back."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kdtune.base import IGNORE, SegOutput
from kdtune.study.trial_config import TrialConfig
from kdtune.training.evaluation import confusion, counted
from kdtune.training.image_counts import SCHEMA, Cells, collected, counts_of
from kdtune.training.loop import Evaluation
from kdtune.training.site import Site
from kdtune.training.trial import run
from tests.support.image_counts import drawn, iou, matrix
from tests.support.tiny import config, noise

pytestmark = pytest.mark.usefixtures("one_thread")


def last(which: TrialConfig) -> list[Evaluation]:
    return [evaluation for evaluation, _ in run(which, Site())]


def test_each_image_is_counted_by_itself() -> None:
    """Against confusion matrices of splits of one image, of sizes that are in batches and that are not."""
    sizes = [(32, 48), (32, 48), (16, 48), (32, 48)]
    torch.manual_seed(1)
    network, recipe, device = config().student.build(12), config().recipe, torch.device("cpu")
    split, preprocessing = noise(sizes), config().student.preprocessing
    found: list[Cells] = []
    whole = confusion(network, preprocessing, split, recipe, device, found)
    counts = collected(split.names, ["a", "a", None, "b"], found, 12)
    assert counts.names == split.names
    alone = []
    for i in range(len(sizes)):
        one = type(split)(
            split.names[i : i + 1], split.images, split.labels, split.sizes[i : i + 1], split.first[i : i + 1]
        )
        alone.append(confusion(network, preprocessing, one, recipe, device).numpy())
    hits, union = counts.overlaps(12)
    for i, expected in enumerate(alone):
        assert (hits[i] == expected.diagonal()).all()
        assert (union[i] == expected.sum(0) + expected.sum(1) - expected.diagonal()).all()
    assert (matrix(counts, 12) == whole.numpy()).all()
    pixels = [sum(row["pixels"] for row in counts.table().to_pylist() if row["image"] == name) for name in split.names]
    assert pixels == [h * w for h, w in sizes]  # void ones, too


def test_counting_waits_for_no_gpu() -> None:
    """A value, or a shape that depends on one, would be an error: fake tensors have none."""
    with FakeTensorMode():
        logits = torch.randn(3, 12, 4, 6, device="cuda", dtype=torch.bfloat16)
        found = counted(logits, torch.zeros(3, 32, 48, dtype=torch.int64, device="cuda"))
    assert (found.shape, found.dtype, found.device.type) == ((3, 145), torch.int64, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_counts_as_a_processor_does() -> None:
    logits, target = torch.randn(2, 12, 64, 96), torch.randint(0, 12, (2, 64, 96))
    target[:, :5] = IGNORE
    expected = counted(logits, target)
    assert all(torch.equal(counted(logits.cuda(), target.cuda()).cpu(), expected) for _ in range(3))


def test_a_trials_last_evaluation_has_them_and_no_other() -> None:
    found = last(config())
    assert [evaluation.images is None for evaluation in found] == [True, True, False]
    images = found[-1].images
    assert images is not None
    assert images.names == ("val-00000", "val-00001", "val-00002", "val-00003")
    assert iou(matrix(images, 12)) == pytest.approx(found[-1].per_class_iou, nan_ok=True)
    assert last(config({"recipe.num_steps": 0}))[-1].images is not None


def test_recordings_are_told() -> None:
    camvid = config({"dataset": {"name": "camvid"}}).dataset
    assert camvid.sequence("0016E5_07959") == "0016E5"
    cityscapes = config({"dataset": {"name": "cityscapes"}}).dataset
    assert cityscapes.sequence("frankfurt_000001_054640") == "frankfurt_000001"
    assert config().dataset.sequence("val-00000") is None


def test_through_a_file() -> None:
    counts = drawn([0.9, 0.2, 0.5], 5, seed=3, sequences=["a", None, "a"])
    stream = io.BytesIO()
    pq.write_table(counts.table(), stream)
    stream.seek(0)
    back = counts_of(pq.read_table(stream))
    assert (back.names, back.sequences) == (counts.names, counts.sequences)
    assert np.array_equal(back.cells, counts.cells)
    none = collected([], [], [], 5)
    assert counts_of(none.table()).names == ()


@pytest.mark.parametrize(
    ("column", "values"),
    [("pixels", [-1, 2]), ("pixels", [None, 2]), ("image", [None, "b"]), ("label", [None, 1]), ("label", [-3, 1])],
)
def test_what_is_no_counts(column: str, values: list[object]) -> None:
    good = {"image": ["a", "b"], "sequence": [None, None], "label": [0, 1], "predicted": [1, 1], "pixels": [3, 4]}
    counts_of(pa.table(good, schema=SCHEMA))
    with pytest.raises(ValueError, match="no "):
        counts_of(pa.table(good | {column: values}, schema=SCHEMA))
    with pytest.raises(ValueError, match="no table"):
        counts_of(pa.table(good))


def test_classes_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="none of the 4"):
        drawn([0.5], 5, seed=1).overlaps(4)


def test_only_a_network_that_answers_is_needed() -> None:
    """A network that gives the label of each pixel has all of them right."""
    split = noise([(16, 16)], classes=3)

    class Right(torch.nn.Module):
        num_classes = 3

        def forward(self, image: torch.Tensor) -> SegOutput:
            label = torch.from_numpy(split.label(0).astype(np.int64)).clamp(max=2)
            return SegOutput(torch.nn.functional.one_hot(label, 3).permute(2, 0, 1)[None].float(), {})

    found: list[Cells] = []
    confusion(Right(), config().student.preprocessing, split, config().recipe, torch.device("cpu"), found)  # type: ignore[arg-type]
    hits, union = collected(split.names, [None], found, 3).overlaps(3)
    assert (hits == union).all()
    assert hits.sum() == (split.label(0) < 3).sum()
