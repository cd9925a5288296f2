"""L_CWD: each channel is spread over the image as in the teacher."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveFloat, model_validator

from kdtune.base import Confidence, LossTerm, Published, Tap

if TYPE_CHECKING:
    from kdtune.base import Loss, SegNet


class ChannelWise(LossTerm):
    r"""Channel-wise distillation: each channel, as a distribution over the cells, copies the teacher's.

    .. math::
        L = \frac{\tau^2}{C} \; \mathrm{mean}_N \sum_c \mathrm{KL}(\phi(x^T_c) \,\|\, \phi(x^S_c)), \qquad
        \phi(x_c)_i = \frac{e^{x_{c,i} / \tau}}{\sum_j e^{x_{c,j} / \tau}}

    in nats: summed over the h w cells, averaged over the C channels and the N images. x are the logits, or the
    features at ``tap``; the teacher's are resized to the student's cells (bilinear, align_corners=True). Where the
    widths differ, the student's pass a 1x1 convolution without bias first, trained with the student. Ignored
    pixels are included: the labels are not read. Float32 at least.

    * ``normalise_over: channels``: the distribution of each cell over its channels, averaged over images and cells
      in the place of channels; on logits that is L_PI. (The published code calls it "spatial".)
    * ``divergence: mse``: the sum of squared differences of the two distributions in the place of KL, tau^2 and
      divisor as above. TorchDistiller's code leaves tau at 1 there.
    * ``convention``: ``paper`` divides by the channels that are compared, C_T; ``cirkd`` by the student's own before
      the convolution, C_S: its gradient is C_T / C_S times the paper's. The two differ only there.

    Published weights, all at tau 4: TorchDistiller 3 on logits (``paper``), CIRKD 3 on logits and 50 on features
    (``cirkd``); mmrazor 5 on logits at tau 1.

    Source: Shu et al. 2021, arXiv:2011.13256, the channel-wise KL divergence; code: TorchDistiller's and
    CIRKD's ``CriterionCWD``.
    """

    symbol: ClassVar[str] = "L_CWD"
    source: ClassVar[str] = "Shu et al. 2021, arXiv:2011.13256, channel-wise KL divergence"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(3.0, "TorchDistiller's script, on logits at temperature 4")
    owns: ClassVar[str] = "a 1x1 adapter, on features whose widths differ"

    temperature: PositiveFloat = 4.0  # tau
    tap: Tap = "logits"
    normalise_over: Literal["cells", "channels"] = "cells"
    divergence: Literal["kl", "mse"] = "kl"
    convention: Literal["paper", "cirkd"] = "paper"

    @model_validator(mode="after")
    def _something_is_averaged_over_channels(self) -> Self:
        if self.convention == "cirkd" and self.normalise_over == "channels":
            raise ValueError(
                "convention cirkd says what an average over channels divides by; with normalise_over: "
                "channels there is none: leave one of them out"
            )
        return self

    @property
    def taps(self) -> frozenset[Tap]:
        """None for the logits."""
        return frozenset() if self.tap == "logits" else frozenset({self.tap})

    def build(self, student: "SegNet", teacher: "SegNet | None") -> "Loss":
        """The term, with a new adapter where the widths differ."""
        from kdtune.losses.channel_wise_loss import ChannelWiseLoss

        assert teacher is not None
        widths = [n.num_classes if self.tap == "logits" else n.channels[self.tap] for n in (student, teacher)]
        return ChannelWiseLoss(self, widths[0], widths[1])
