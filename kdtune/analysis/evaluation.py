"""A network from a file, on the validation images of a dataset: mIoU, the IoU of each class, images per second."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdtune.analysis.given import evaluated
from kdtune.analysis.weights_file import named_network
from kdtune.base import UserError
from kdtune.devices import compute_device
from kdtune.records.energy_tables import IMAGES
from kdtune.records.rows import absent_note
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training.built import built
from kdtune.training.energy import Amount, Bill
from kdtune.training.energy_counter import check_country, counted
from kdtune.training.energy_meter import metered_here
from kdtune.training.evaluation import confusion, intersection_over_union
from kdtune.training.image_counts import Cells, ImageCounts, collected
from kdtune.training.site import Site, load_split
from kdtune.training.sizes import check_validation
from kdtune.training.teachers import check_classes
from kdtune.training.weights import read_weights


@dataclass(frozen=True)
class Measured:
    """What a network makes of a dataset's validation images."""

    config: TrialConfig
    device: str
    images: int
    miou: float  # percent
    per_class_iou: list[float | None]  # percent; none where labels and predictions lack the class
    seconds: float  # reading, network and confusion matrix
    energy: Amount | None = None  # of the pass; none where it was too short for a reading
    country: str = "DEU"
    counted: bool = False  # by the machine's counters; else estimated
    counts: ImageCounts | None = None  # of single images

    @property
    def images_per_second(self) -> float:
        """Of the whole pass."""
        return self.images / self.seconds

    @property
    def per_10000(self) -> Amount | None:
        """Energy and emissions per 10,000 images."""
        return None if self.energy is None else self.energy * (IMAGES / self.images)

    def write(self, file: str) -> None:
        """One row of Parquet, see ``write_rows``."""
        write_rows([self.row()], file)

    def row(self) -> dict[str, object]:
        """What a table has of it."""
        return {
            "model": self.config.student.model_dump_json(),
            "dataset": self.config.dataset.name,
            "images": self.images,
            "miou": self.miou,
            "per_class_iou": self.per_class_iou,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "energy_kwh_per_10000_images": self.per_10000 and self.per_10000.kwh,
            "co2_kg_per_10000_images": self.per_10000 and self.per_10000.co2_kg,
            "country": self.country,
            "measured": self.counted,
            "device": self.device,
            "torch_version": str(torch.__version__),
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        dataset = self.config.dataset
        width = max(len(name) for name in dataset.class_names)
        for name, iou in zip(dataset.class_names, self.per_class_iou, strict=True):
            yield f"{name:{width}} {'absent' if iou is None else f'{iou:6.2f}'}"
        yield f"{'mIoU':{width}} {self.miou:6.2f} [%]"
        note = absent_note(dataset.class_names, self.per_class_iou)
        if note:
            yield note
        yield from self.costs()

    def costs(self) -> Iterator[str]:
        """What the pass took, for a person."""
        dataset = self.config.dataset
        yield (
            f"{self.images} images of {dataset.name} in {self.seconds:.1f} s: {self.images_per_second:.2f} images/s, "
            f"reading included, on {self.device}"
        )
        if self.per_10000 is not None:
            yield (
                f"per {IMAGES:,} images: {self.per_10000.kwh:.3g} kWh, {self.per_10000.co2_kg:.3g} kg CO2-equivalent "
                f"({self.country}; {'measured' if self.counted else 'estimated: this processor shows no counter'})"
            )


def write_rows(rows: Sequence[Mapping[str, object]], file: str) -> None:
    """A table of Parquet.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from None


def evaluate(
    checkpoint: str,
    dataset: str,
    site: Site,
    settings: Mapping[str, Value],
    model: str | None = None,
    country: str = "DEU",
    *,
    of_images: bool = False,
) -> Measured:
    """One pass over the validation images, as a trial's evaluations do it.

    Args:
        checkpoint: a file of weights, or the folder of a trial's checkpoint.
        dataset: its name, or the file of its settings.
        site: where the data lies.
        settings: ``dataset.*`` and ``recipe.*`` by dotted path, e.g. ``recipe.eval_window``.
        model: the network as YAML; none: as the file's record says.
        country: whose electricity it is, ISO 3166-1 alpha-3.
        of_images: keep the counts of single images.

    Raises:
        UserError: data or weights are missing, do not fit each other, or nothing says which network it is.
    """
    check_country(country)
    file, record, network_model = named_network(checkpoint, model)
    config = evaluated(dataset, network_model, settings)
    if record is not None:
        check_classes(file, record, config.dataset)
    device = compute_device()
    network = built(config.student, config.dataset.num_classes, read_weights(file), file)
    network.to(device)
    val = load_split(config, "val", site)
    check_validation(network, config.student.label, val.sizes, config.recipe, device)
    with metered_here(country) as spent:
        before, began = spent(), time.perf_counter()
        of_each: list[Cells] | None = [] if of_images else None
        matrix = confusion(network, config.student.preprocessing, val, config.recipe, device, of_each)
        matrix = matrix.cpu()  # waits for it
        seconds = time.perf_counter() - began
        bill = Bill()
        bill.evaluated(before, spent(), len(val))
    energy = bill.inference if bill.images else None
    miou, per_class = intersection_over_union(matrix, config.recipe.absent_classes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    counts = None
    if of_each is not None:
        sequences = [config.dataset.sequence(each) for each in val.names]
        counts = collected(val.names, sequences, of_each, config.dataset.num_classes)
    return Measured(config, name, len(val), miou, per_class, seconds, energy, country, counted(), counts)
