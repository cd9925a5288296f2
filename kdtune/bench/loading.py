"""``kdtune bench loader`` and ``evaluation``: reading against torchvision's way, a pass against a plain loop."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from kdtune.base import IGNORE, Preprocessing, SegNet
from kdtune.bench.figures import told
from kdtune.datasets.opened import FORMATS
from kdtune.devices import compute_device
from kdtune.loading.batches import normalise, train_batches
from kdtune.loading.images import Images
from kdtune.loading.pack import data_folder, dataset_root
from kdtune.records.rows import Row
from kdtune.search.options import Options, adjusted
from kdtune.study.file import load_study
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.training.evaluation import confusion
from kdtune.training.site import Site, load_split, load_splits


def loading(study: str, data_root: str | None, settings: Mapping[str, Value], steps: int, output: str | None) -> str:
    """Images per second of augmented and normalised batches on the device, packed and torchvision's way.

    The packing is not counted. torchvision's way needs files: PIL decodes image and label, ``v2`` scales (bilinear with
    antialias, its default), pads, crops, mirrors and normalises, a DataLoader with two workers hands over; its labels
    are not even mapped to classes.
    """
    config = adjusted(load_study(study), Options(settings=settings)).base
    config = config.replace({"recipe.num_steps": steps + 1})
    root = data_folder(data_root)
    train, _ = load_splits(config, Site(root))
    batches = train_batches(train, config.recipe, config.seed, 0, compute_device())
    packed = _speed("packed", (batch.image(config.student.preprocessing) for batch in batches), config, steps)
    packed |= _reading_memory(config, root)
    rows = [packed]
    if config.dataset.needs_files:
        theirs = _speed("torchvision x 2", _torchvision(config, root, steps), config, steps)
        theirs |= {"uss_mb": None, "pss_mb": None}
        ratio = packed["images_per_second"] / theirs["images_per_second"]
        rows = [row | {"ratio": ratio} for row in (packed, theirs)]
    return told(f"loading, {study}, {steps} batches of {config.recipe.batch_size}", rows, output)


def _speed(reader: str, images: Iterator[torch.Tensor], config: TrialConfig, steps: int) -> Row:
    last = next(images)  # touches the files, starts the workers
    began = time.perf_counter()
    for _ in range(steps):
        last = next(images)
    float(last.sum())  # waits for the device
    seconds = (time.perf_counter() - began) / steps
    return {
        "dataset": config.dataset.name,
        "reader": reader,
        "crop": "x".join(map(str, config.recipe.crop)),
        "batch_ms": 1000 * seconds,
        "images_per_second": config.recipe.batch_size / seconds,
        "threads": torch.get_num_threads(),
    }


def _torchvision(config: TrialConfig, data_root: str | None, steps: int) -> Iterator[torch.Tensor]:
    from torchvision import tv_tensors  # here, because importing it takes a second
    from torchvision.transforms import v2

    samples = config.dataset.samples("train", dataset_root(config.dataset, data_root))
    recipe, device, how = config.recipe, compute_device(), config.student.preprocessing
    mean, std = ([value / 255 for value in values] for values in (how.mean, how.std))
    scales = np.arange(recipe.scale_min, recipe.scale_max + 1e-6, recipe.scale_step)
    finish = v2.Compose(
        [
            v2.RandomCrop(recipe.crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}),
            v2.RandomHorizontalFlip(0.5 * recipe.flip),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            v2.Normalize(mean, std),
        ]
    )

    def read(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (Image.open(path, formats=FORMATS) for path in samples[i].files)
        scale = scales[torch.randint(len(scales), ())]
        size = [round(length * scale) for length in getattr(config.dataset, "size", None) or image.size[::-1]]
        pair = tv_tensors.Image(image.convert("RGB")), tv_tensors.Mask(label)
        found: tuple[torch.Tensor, torch.Tensor] = finish(*v2.Resize(size)(*pair))
        return found

    order = [i % len(samples) for i in range((steps + 5) * recipe.batch_size)]
    loader = DataLoader(_Reads(order, read), recipe.batch_size, num_workers=2, pin_memory=device.type == "cuda")
    for image, _ in loader:
        yield image.to(device, non_blocking=True)


class _Reads(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, order: Sequence[int], read: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.order, self.read = order, read

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.read(self.order[i])


def _reading_memory(config: TrialConfig, data_root: str | None) -> Row:
    """What reading adds to a process, beyond its imports, while another reads the same pack: private, and with a share.

    Both have drawn an epoch of batches, at least 10 and at most 50. The network's input, which each makes of a batch
    and training needs anyway, is not counted.
    """
    processes = multiprocessing.get_context("spawn")
    pipes, readers = [], []
    for seed in (0, 1):
        ours, theirs = processes.Pipe()
        readers.append(processes.Process(target=_read_and_tell, args=(config, data_root, seed, theirs), daemon=True))
        readers[-1].start()
        theirs.close()  # so that a reader that dies is an error here, not a wait
        pipes.append(ours)
    for pipe in pipes:  # each has read its batches and goes on holding the pack
        pipe.recv()
    for pipe in pipes:
        pipe.send("measure")
    uss, pss = pipes[1].recv()
    for pipe, reader in zip(pipes, readers, strict=True):
        pipe.send("end")
        reader.join()
    return {"uss_mb": uss / 2**20, "pss_mb": pss / 2**20}


def _read_and_tell(config: TrialConfig, data_root: str | None, seed: int, pipe: Connection) -> None:
    before = psutil.Process().memory_full_info()
    train, _ = load_splits(config, Site(data_root))
    steps = max(10, min(50, 1 + len(train) // config.recipe.batch_size))
    recipe = config.replace({"recipe.num_steps": steps}).recipe
    target = None
    for batch in train_batches(train, recipe, seed, 0, torch.device("cpu")):
        target = batch.target  # held while the next batch is made, as a step holds it
        del batch
    assert target is not None
    pipe.send("ready")
    pipe.recv()
    after = psutil.Process().memory_full_info()
    pipe.send((after.uss - before.uss, after.pss - before.pss))
    pipe.recv()


def evaluation(
    study: str, data_root: str | None, settings: Mapping[str, Value], passes: int, output: str | None
) -> str:
    """Seconds of a pass over the validation images, by kdtune and by a plain loop, in turns; the student is untrained.

    The plain loop takes the images from memory one by one and does what the network's authors do: forward, bilinear to
    the size of the label, argmax, confusion matrix. Both must count the same.
    """
    config = adjusted(load_study(study), Options(settings=settings)).base
    device, how = compute_device(), config.student.preprocessing
    val = load_split(config, "val", Site(data_folder(data_root)))
    network = config.student.model_copy(update={"init": "random"}).build(config.dataset.num_classes).to(device).eval()
    taken: dict[str, list[float]] = {"kdtune": [], "plain loop": []}
    for _ in range(passes):
        began = time.perf_counter()
        ours = confusion(network, how, val, config.recipe, device).cpu()
        between = time.perf_counter()
        theirs = _plain_loop(network, how, val, device).cpu()
        taken["kdtune"].append(between - began)
        taken["plain loop"].append(time.perf_counter() - between)
        differing = int((ours - theirs).abs().sum()) // 2
        assert differing <= 0.01 * int(theirs.sum()), f"{differing} pixels are counted otherwise"  # bf16 turns a few
    rows = [
        {
            "dataset": config.dataset.name,
            "loop": name,
            "images": len(val),
            "seconds_median": float(np.median(seconds)),
            "seconds_min": min(seconds),
            "images_per_second": len(val) / float(np.median(seconds)),
            "threads": torch.get_num_threads(),
        }
        for name, seconds in taken.items()
    ]
    return told(f"evaluation, {study}, {passes} passes", rows, output)


@torch.no_grad()
def _plain_loop(network: SegNet, how: Preprocessing, val: Images, device: torch.device) -> torch.Tensor:
    classes = network.num_classes
    matrix = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    for i in range(len(val)):
        pixels = torch.from_numpy(np.array(val.image(i))).to(device).permute(2, 0, 1)[None].float()
        label = torch.from_numpy(np.array(val.label(i))).to(device).long()
        logits = network(normalise(pixels, how)).logits
        predicted = F.interpolate(logits, size=label.shape, mode="bilinear", align_corners=True).argmax(dim=1)[0]
        labelled = label != IGNORE
        matrix += torch.bincount(label[labelled] * classes + predicted[labelled], minlength=classes * classes)
    return matrix.view(classes, classes)
