"""Any network that a Python function builds: torchvision's, another package's, the user's own."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kdtune.base import Model, Tap

if TYPE_CHECKING:
    from kdtune.base import SegNet


CLASSES_ARGUMENT = "num_classes"  # the usual name for K; of transformers' classes num_labels, which kdtune knows


class ExternalModel(Model):
    """A network of any package: what ``builder`` returns, its feature maps taken by hooks.

    Example::

        name: external
        builder: torchvision.models.segmentation:deeplabv3_resnet50
        arguments: {weights: null, weights_backbone: null, aux_loss: true}
        taps: {layer4: backbone.layer4, psp: classifier.3}
        classifier: classifier.4
        output: out
        aux_output: aux

    The builder is called with ``arguments`` and the number of classes; of a class of transformers these are the fields
    of its configuration. It is a class of networks, or annotated to
    return one, or of a module that ``--py-module`` names. It must be importable wherever trials run: installed, on
    PYTHONPATH, or by ``--py-module``. Weights are read with the network's own keys, or with those of kdtune's files,
    which are the same behind ``network.``.
    """

    name: Literal["external"] = "external"
    builder: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]  # package.module:function
    arguments: dict[str, Any] = {}
    classes_argument: str = CLASSES_ARGUMENT  # the builder's name for K; segmentation_models_pytorch: classes
    # its name for the images, where they are not its first argument. Left out of what is written where there is none:
    # trials from before it was there keep their ids
    image_argument: str | None = Field(default=None, exclude_if=operator.not_)
    taps: dict[Tap, str] = {}  # tap, of any name -> path of the submodule whose output it is
    classifier: str | None = None  # path of the last 1x1 convolution; null: found, where the logits come from one
    backbone: str | None = None  # path of what pre-training initialises; null: the whole network
    output: str | None = None  # key, attribute or index of the logits in what the network returns; null: all of it
    aux_output: str | None = None  # likewise, of an auxiliary head's logits

    @property
    def label(self) -> str:
        """The function that builds it."""
        return self.builder.rsplit(":", 1)[1]

    @field_validator("init", mode="after")
    @classmethod
    def _starts_as_built(cls, init: str) -> str:
        if init != "random":
            raise ValueError(f"init='{init}' is for kdtune's own networks; what the builder returns is the start")
        return init

    @model_validator(mode="after")
    def _logits_are_outputs(self) -> Self:
        for tap, what, key in (
            ("aux", "the auxiliary head's logits", "aux_output"),
            ("logits", "the logits", "output"),
        ):
            if tap in self.taps:
                raise ValueError(f"the tap '{tap}' is {what}: name it with {key}, not in taps")
        return self

    def __hash__(self) -> int:
        """Of the content: mappings have none of their own."""
        return hash(self.model_dump_json())

    @property
    def tap_names(self) -> Sequence[Tap]:
        """See ``Model.tap_names``: what the study names, and the logits."""
        return (*self.taps, "logits", *(["aux"] if self.aux_output else []))

    def without_tap(self, tap: Tap) -> str:
        """See ``Model.without_tap``; says the key that would name it."""
        how = (
            "aux_output: KEY, the auxiliary logits among what the network returns"
            if tap == "aux"
            else f"taps: {{{tap}: PATH}}, the path of the submodule that gives it"
        )
        return f"names no '{tap}'; add {how}, or take one that is there: {', '.join(self.tap_names)}"

    def build(self, num_classes: int) -> "SegNet":
        """See ``Model.build``.

        Raises:
            UserError: no such function, it raises, or what it returns is not the network that the study describes.
        """
        from kdtune.models.external_network import External, called

        return External(called(self, num_classes), self, num_classes)
