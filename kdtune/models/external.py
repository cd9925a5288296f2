"""Any network that a Python function builds: torchvision's, another package's, the user's own."""

import operator
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
    taps: dict[Tap, str] = {}  # tap -> path of the submodule whose output it is
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
    def _aux_is_an_output(self) -> Self:
        if "aux" in self.taps:
            raise ValueError("the tap 'aux' is the auxiliary head's logits: name it with aux_output, not in taps")
        return self

    def __hash__(self) -> int:
        """Of the content: mappings have none of their own."""
        return hash(self.model_dump_json())

    def lacks(self, taps: frozenset[Tap]) -> list[Tap]:
        """Those of ``taps`` that the study does not name."""
        named = {*self.taps, *(["aux"] if self.aux_output else [])}
        return sorted(taps - named)

    def build(self, num_classes: int) -> "SegNet":
        """See ``Model.build``.

        Raises:
            UserError: no such function, it raises, or what it returns is not the network that the study describes.
        """
        from kdtune.models.external_network import External, called

        return External(called(self, num_classes), self, num_classes)
