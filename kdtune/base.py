"""The shared vocabulary: what a config, a network, a loss and a dataset are. Knows errors, maps and texts alone.

Torch takes a second to import, and a study is read without it: it is imported where something is computed, and the
classes that are made of its modules (``Loss``, ``Drawing``, ``SegNet``, ``Stateless``; in ``kdtune.modules``) when
asked for.

Shape letters, everywhere in the package: N images, K classes, C channels, H W pixels of the crop, h w cells of a
network's output (about H/8 x W/8), P = h w.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from kdtune.errors import Interrupted as Interrupted
from kdtune.errors import Lost as Lost
from kdtune.errors import RunError as RunError
from kdtune.errors import Stuck as Stuck
from kdtune.errors import UserError as UserError
from kdtune.maps import FeatureTap as FeatureTap
from kdtune.maps import SegOutput as SegOutput
from kdtune.maps import Tap as Tap
from kdtune.maps import align as align
from kdtune.maps import at_least_float32 as at_least_float32
from kdtune.maps import resized as resized
from kdtune.text import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.modules import Drawing as Drawing
    from kdtune.modules import Loss as Loss
    from kdtune.modules import SegNet as SegNet
    from kdtune.modules import Stateless as Stateless

IGNORE = 255  # the one label that counts nowhere; every dataset maps its void classes to it

Split = Literal["train", "val"]


def __getattr__(name: str) -> Any:
    """The classes that need torch."""
    if name in ("Drawing", "Loss", "SegNet", "Stateless"):
        return getattr(importlib.import_module("kdtune.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def error_at(loc: tuple[str | int, ...], message: str, value: object = None) -> InitErrorDetails:
    """One entry of a pydantic error, placed at ``loc``, with a message of our own."""
    kind = PydanticCustomError("study", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=loc, input=value)


class Config(BaseModel):
    """A frozen piece of a study. Never holds a tensor, a handle or a path of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, data: Any) -> Any:
        """Pydantic says that a key is not allowed; this also says which are."""
        known = list(cls.model_fields)
        unknown = [key for key in data if key not in known] if isinstance(data, dict) else []
        if unknown:
            errors = [
                error_at((key,), f"unknown key{did_you_mean(str(key), known)}; allowed: {', '.join(known)}")
                for key in unknown
            ]
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return data


class Preprocessing(Config):
    """How a network wants its images: the order of the channels, then ``(value - mean) / std`` of values 0 to 255.

    The default is that of torchvision's ImageNet weights, and of everything that kdtune trains.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # in the network's own order of channels
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)


Seed = Annotated[int, Field(ge=0, lt=2**32)]  # a step is added to 2^32 times it, in torch's 64 bits


class Model(Config):
    """A network as a study file names it. ``init`` says what its backbone starts from."""

    name: str
    init: Literal["random", "imagenet"] = "random"
    preprocessing: Preprocessing = Preprocessing()

    @property
    def label(self) -> str:
        """What tables call it: ``pspnet-resnet18-0.125``."""
        return self.name

    @property
    def tap_names(self) -> Sequence[Tap]:
        """The feature maps that it can give; a network that has others than these says so."""
        return ("layer1", "layer2", "layer3", "layer4", "psp", "aux")

    def without_tap(self, tap: Tap) -> str:
        """What a study is told whose term asks for a map that it cannot give: the end of a sentence about it."""
        there = self.tap_names
        return f"has no tap '{tap}'{did_you_mean(tap, there)}; there are: {', '.join(there)}"

    def build(self, num_classes: int) -> "SegNet":
        """A new network, weights drawn from torch's global generator (or ImageNet's, for the backbone).

        Raises:
            UserError: the ImageNet weights are neither in torchvision's cache nor reachable.
        """
        raise TypeError(f"{type(self).__name__} has no build")


# A term's formula is from published code, from the paper's equations, or, reconstructed, from an abstract or a note.
Confidence = Literal["code", "paper", "reconstruction"]


@dataclass(frozen=True)
class Published:
    """The weight that a publication gives a term, converted to what ``weight`` multiplies here."""

    weight: float
    source: str  # whose, where it was used, and what it was before the conversion
    printed: float | None = None  # the number that stands there, where the conversion changes it


class LossTerm(Config):
    """One weighted term of the training loss, as a study file writes it.

    What it declares here is all that it is given: a tap that no term names is not kept, a teacher that none needs is
    neither loaded nor run. A subclass gives a fixed set of taps as a ``ClassVar``, one that follows its fields as a
    property.

    A term is a function of what it is given. It reads no global generator once it is built, and the order of the
    images in a batch is nothing to it. One that draws (a mask per image, a sample of a queue) declares ``draws``: its
    numbers come from a generator of its own, which is part of its state (``kdtune.modules.Drawing``), so that neither
    another term nor a restart changes them. Of these the order of the images may change the value.

    A term that reads the networks' weights gets the networks in ``build``. It keeps them in a tuple,
    ``self.networks = (student,)``: a module that is assigned by itself becomes part of the term, is saved with it and
    trained twice. If it reads a classifier it declares ``needs_classifier``. If it runs what follows a tap by itself
    (``SegNet.after``), it names that tap as ``runs_after``: a student that cannot is refused before the launch.
    """

    symbol: ClassVar[str]  # as papers write it, e.g. "L_PI"
    source: ClassVar[str]  # paper and equation
    confidence: ClassVar[Confidence] = "reconstruction"  # a term that says nothing claims nothing
    published_weight: ClassVar[Published | None] = None
    patent: ClassVar[str] = ""  # that claims the method; a study then says ``acknowledge_patent: true``
    task: ClassVar[bool] = False  # it learns from the labels alone: every method has it, so none is named after it
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_classifier: ClassVar[bool] = False  # the student's
    runs_after: ClassVar[Tap | None] = None  # the student's tap that it gives to ``SegNet.after``
    needs_image: ClassVar[bool] = False  # it finds it in ``SegOutput.image`` of both networks, but in no ``digest``
    draws: ClassVar[bool] = False
    owns: ClassVar[str] = ""  # what it trains or keeps from step to step, if anything: "a critic with its optimiser"
    live_teacher: ClassVar[bool] = False  # it reads the teacher's weights, or runs it: kept outputs would not do
    digested: ClassVar[bool] = False  # it has a ``digest``

    weight: NonNegativeFloat  # lambda, on the term as its docstring normalises it

    @classmethod
    def plain(cls, **fields: Any) -> Self:
        """With weight 1 and otherwise its defaults, a patent acknowledged: for measurements and lists."""
        return cls(weight=1.0, **({"acknowledge_patent": True} if cls.patent else {}), **fields)

    @property
    def taps(self) -> frozenset[Tap]:
        """The student's feature maps that it reads, by any name that its network knows, see ``Tap``."""
        return frozenset()

    @property
    def teacher_taps(self) -> frozenset[Tap]:
        """The teacher's feature maps that it reads: the same as the student's, unless it says otherwise."""
        return self.taps if self.needs_teacher else frozenset()

    def digest(self, teacher: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
        """All that the term needs of the teacher's feature maps, where that is small: it is kept in their place.

        A pure function of its arguments and of the term's fields but its weight, in float32 at least. ``cells``: the
        size (h, w) of the student's map. The term finds it in ``teacher.digests`` under ``digest_name``, or calls it.
        """
        raise TypeError(f"{type(self).__name__} has no digest")

    @property
    def digest_name(self) -> str:
        """Of its digest: the class, and a hash of the fields that it depends on."""
        fields = self.model_dump_json(exclude={"weight"})
        return f"{type(self).__name__}-{hashlib.sha256(fields.encode()).hexdigest()[:10]}"

    def of_teacher(self, teacher: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
        """The digest, read or made."""
        known = teacher.digests.get(self.digest_name)
        return self.digest(teacher, cells, target).contiguous() if known is None else known

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """The unweighted term. Terms that own parameters or state override ``build`` instead."""
        raise TypeError(f"{type(self).__name__} has neither __call__ nor build")

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term for these two networks, whose channels and classifiers it may read.

        New parameters are drawn from torch's global generator. The teacher has no values (device ``meta``) where its
        outputs are read from a store, unless the term says ``live_teacher``.
        """
        from kdtune.modules import Stateless

        return Stateless(self)


@dataclass(frozen=True)
class Sample:
    """One image of a dataset. ``files`` are what its pixels come from (empty where they are drawn)."""

    name: str
    files: tuple[Path, ...] = ()


class SegmentationDataset(Config):
    """A dataset as a study file names it.

    ``root`` below is the dataset's own folder (``DATA_ROOT/<name>``), never part of the config.
    """

    class_names: ClassVar[Sequence[str]]
    palette: ClassVar[Sequence[tuple[int, int, int]]]  # one RGB colour per class
    needs_files: ClassVar[bool] = True  # False: the project draws it, no root is needed
    terms: ClassVar[str] = ""  # under which the images may be used, one line; that of an archive stands with it
    obtain: ClassVar[str] = ""  # where the data comes from and how to get it, one clause for error messages
    version: ClassVar[int] = 1  # raised whenever the same files (or seed) would give other pixels

    name: str

    @property
    def folder(self) -> str:
        """Where it lies below the folder of all datasets; one that says its own place gives that, or a path."""
        return self.name

    @property
    def settings(self) -> str:
        """What its pixels depend on beside its files, as JSON: all fields but the place."""
        return self.model_dump_json(exclude={"root"})

    @property
    def num_classes(self) -> int:
        """K, void not counted."""
        return len(self.class_names)

    def samples(self, split: Split, root: Path | None) -> list[Sample]:
        """The images of a split, in a fixed order.

        Raises:
            UserError: a folder or a label is missing; the line says which, where the data comes from and what to do.
        """
        raise TypeError(f"{type(self).__name__} has no samples")

    def sequence(self, name: str) -> str | None:
        """The recording that an image is from, by its sample's name: images of one are not independent of each other.

        None: each image stands for itself.
        """
        return None

    def read(self, split: Split, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB and label (H, W) uint8, class indices or ``IGNORE``.

        Raises:
            UserError: an unreadable file or a label value out of range; the line names the file.
        """
        raise TypeError(f"{type(self).__name__} has no read")
