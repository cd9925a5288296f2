"""Small stand-ins for the datasets that lie in folders: their exact layout, pixels drawn by kdtune."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.base import IGNORE, Split, UserError
from kdtune.datasets.street import draw_scene
from kdtune.datasets.street_classes import CLASSES
from kdtune.datasets.voc import voc_colour

Size = tuple[int, int]  # H, W [pixels]
Pixels = NDArray[np.uint8]
SPLITS: tuple[Split, ...] = ("train", "val")

# Per dataset, the raw values of its label files that a class of the demo stands for; several take turns, so
# that every raw value occurs once there are enough images.
CITYSCAPES = {
    "sky": (23,),
    "building": (11, 15, 16),
    "road": (7, 7, 9, 10, 6),
    "sidewalk": (8,),
    "vegetation": (21, 22),
    "car": (26, 29, 32),
    "truck or bus": (27, 28, 30, 31),
    "person": (24, 25),
    "pole": (17, 18),
    "traffic sign": (20, 19),
    "bicycle": (33, 32),
    "fence or wall": (13, 12, 14),
    "void": (0, 1, 2, 3, 4, 5),
}
CAMVID = {
    "sky": (0,),
    "building": (1,),
    "road": (3,),
    "sidewalk": (4,),
    "vegetation": (5,),
    "car": (8,),
    "truck or bus": (8,),
    "person": (9,),
    "pole": (2,),
    "traffic sign": (6,),
    "bicycle": (10,),
    "fence or wall": (7,),
    "void": (11,),
}
VOC = {
    "sky": (0, 0, 1, 3),
    "building": (0,),
    "road": (0, 4, 0),
    "sidewalk": (0, 9, 11, 18),
    "vegetation": (16, 0, 10, 17),
    "car": (7,),
    "truck or bus": (6, 19),
    "person": (15,),
    "pole": (0, 5),
    "traffic sign": (20,),
    "bicycle": (2, 14),
    "fence or wall": (8, 12, 13),
    "void": (255,),
}
ADE20K = {
    "sky": (3,),
    "building": (2, 26, 49, 1),
    "road": (7,),
    "sidewalk": (12, 53),
    "vegetation": (5, 18, 10, 73),
    "car": (21, 103),
    "truck or bus": (81, 84),
    "person": (13,),
    "pole": (94,),
    "traffic sign": (44, 137),
    "bicycle": (128, 117),
    "fence or wall": (33, 39),
    "void": (0,),
}


def write_synthetic(name: str, root: Path, images: int, size: Size | None = None, seed: int = 0) -> None:
    """Writes ``images`` images per split of a dataset, in the layout, names and label values of the real one.

    Args:
        name: cityscapes, camvid, voc or ade20k.
        root: the dataset's own folder, created if need be; a file of the same name is overwritten.
        images: per split.
        size: H, W [pixels]; None: the sizes of the real images.
        seed: of the scenes.

    Raises:
        UserError: a dataset that has no synthetic form, or fewer than one image.
    """
    if name not in WRITERS:
        raise UserError(f"no synthetic form of dataset '{name}'; there are: {', '.join(WRITERS)}")
    if images < 1:
        raise UserError(f"{images} images per split asked for, but it takes at least 1")
    write, mapping, sizes = WRITERS[name]
    for split in SPLITS:
        written = []
        for index in range(images):
            image, label = draw_scene(size or sizes[index % len(sizes)], [seed, SPLITS.index(split), index])
            written.append(write(root, split, index, image, _relabel(label, mapping, index)))
        if name == "voc":
            _voc_lists(root, split, written)


def _relabel(label: Pixels, mapping: Mapping[str, Sequence[int]], index: int) -> Pixels:
    """Raw label values (H, W): where a class has several, vertical eighths of the image take them in turn."""
    bands = 8
    width = label.shape[1]
    turn = index * bands + np.arange(width) * bands // width  # (W,)
    raw = np.empty_like(label)
    for number, name in enumerate((*CLASSES, "void")):
        values = np.asarray(mapping[name], np.uint8)
        where = label == (IGNORE if name == "void" else number)
        raw = np.where(where, values[turn % len(values)], raw)
    return raw


def _save(pixels: Pixels, path: Path, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([channel for index in range(256) for channel in voc_colour(index)])
    if path.suffix == ".jpg":
        image.save(path, quality=92)
    else:
        image.save(path)


def _cityscapes(root: Path, split: Split, index: int, image: Pixels, label: Pixels) -> str:
    city = {"train": ("aachen", "bochum"), "val": ("frankfurt", "lindau")}[split][index % 2]
    scene = f"{city}_{index:06d}_000019"
    _save(image, root / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png")
    _save(label, root / "gtFine" / split / city / f"{scene}_gtFine_labelIds.png")
    return scene


def _camvid(root: Path, split: Split, index: int, image: Pixels, label: Pixels) -> str:
    scene = f"{'0001TP' if split == 'train' else '0016E5'}_{30 * index:06d}"
    _save(image, root / split / f"{scene}.jpg")
    _save(label, root / f"{split}annot" / f"{scene}.png")
    return scene


def _voc(root: Path, split: Split, index: int, image: Pixels, label: Pixels) -> str:
    scene = f"{2007 if split == 'train' else 2008}_{index:06d}"
    base = root / "VOCdevkit" / "VOC2012"
    _save(image, base / "JPEGImages" / f"{scene}.jpg")
    _save(label, base / "SegmentationClass" / f"{scene}.png", palette=True)
    return scene


def _voc_lists(root: Path, split: Split, written: Sequence[str]) -> None:
    """The lists of a split, and of both together; the augmented training set, here no larger than the plain one."""
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{scene}\n" for scene in written), encoding="utf-8")
    both = [lists / f"{each}.txt" for each in SPLITS]
    text = "".join(path.read_text(encoding="utf-8") for path in both if path.exists())
    (lists / "trainval.txt").write_text(text, encoding="utf-8")
    if split == "train":
        (lists / "train_aug.txt").write_text("".join(f"{scene}\n" for scene in written), encoding="utf-8")
        for scene in written:  # the labels of SBD come without the palette
            with Image.open(lists.parents[1] / "SegmentationClass" / f"{scene}.png", formats=("PNG",)) as label:
                _save(np.asarray(label), lists.parents[1] / "SegmentationClassAug" / f"{scene}.png")


def _ade20k(root: Path, split: Split, index: int, image: Pixels, label: Pixels) -> str:
    scene = f"ADE_{split}_{index + 1:08d}"
    part = {"train": "training", "val": "validation"}[split]
    base = root / "ADEChallengeData2016"
    _save(image, base / "images" / part / f"{scene}.jpg")
    _save(label, base / "annotations" / part / f"{scene}.png")
    return scene


def _with_all(mapping: Mapping[str, tuple[int, ...]], count: int) -> dict[str, tuple[int, ...]]:
    """The mapping with the values 1..count that nothing stands for dealt out over the large classes."""
    missing = sorted(set(range(1, count + 1)) - {value for values in mapping.values() for value in values})
    large = ("building", "road", "vegetation", "car")
    extra = {name: tuple(missing[place :: len(large)]) for place, name in enumerate(large)}
    return {name: values + extra.get(name, ()) for name, values in mapping.items()}


Write = Callable[[Path, Split, int, Pixels, Pixels], str]  # root, split, index, image, label -> the scene's name
WRITERS: dict[str, tuple[Write, Mapping[str, Sequence[int]], Sequence[Size]]] = {
    "cityscapes": (_cityscapes, CITYSCAPES, [(1024, 2048)]),
    "camvid": (_camvid, CAMVID, [(360, 480)]),
    "voc": (_voc, VOC, [(375, 500), (500, 375), (333, 500)]),
    "ade20k": (_ade20k, _with_all(ADE20K, 150), [(512, 683), (683, 512), (256, 256), (768, 1024)]),
}
