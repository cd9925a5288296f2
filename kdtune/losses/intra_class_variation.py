"""L_IFV: features spread around the centre of their class as they do in the teacher."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from kdtune.base import Confidence, LossTerm, Published, SegOutput, Tap, at_least_float32, resized

if TYPE_CHECKING:
    from torch import Tensor


class IntraClassVariation(LossTerm):
    r"""Intra-class feature variation: each cell is as similar to the centre of its class as in the teacher.

    .. math::
        L = \mathrm{mean}_{N,h,w} \; (M^T - M^S)^2, \qquad M_i = \cos(f_i, \mu_{y_i}), \qquad
        \mu_c = \frac{\sum_{y_i = c} f_i}{|\{i: y_i = c\}| + 10^{-6}}

    without unit, on the features after the pyramid module. Labels are resized to the cells by nearest.
    Centres are taken per image and class (not over the batch), and the gradient flows through them. An
    ignored cell is its own centre: it contributes 0 but stays in the divisor, so the value is the mean over
    labelled cells times their share. Student and teacher may differ in channels. Centres and cosines are
    computed in float32 at least.

    ``convention``: only ``ifvd`` is published. IFVD's script has weight 200 on this mean, CIRKD's
    re-implementation 20.

    Source: Wang et al. 2020, ECCV, "Intra-class Feature Variation Distillation for Semantic Segmentation";
    Niemann et al. 2023, arXiv:2309.03659, prints no equation; code: IFVD's and CIRKD's ``CriterionIFV``.
    """

    symbol: ClassVar[str] = "L_IFV"
    source: ClassVar[str] = "Wang et al. 2020, ECCV, as in its code (CriterionIFV)"
    confidence: ClassVar[Confidence] = "code"
    published_weight: ClassVar[Published | None] = Published(200.0, "IFVD's script; CIRKD's has 20")
    needs_labels: ClassVar[bool] = True
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})
    digested: ClassVar[bool] = True

    convention: Literal["ifvd"] = "ifvd"

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: "Tensor") -> "Tensor":
        """See the class."""
        assert teacher is not None
        cells = student.taps["psp"].shape[-2:]
        difference = self.of_teacher(teacher, cells, target) - _to_centre(student, cells, target)
        return difference.square().mean()

    def digest(self, teacher: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
        """The teacher's M, (N, P)."""
        return _to_centre(teacher, cells, target).detach()


def _to_centre(output: SegOutput, cells: Sequence[int], target: "Tensor") -> "Tensor":
    """M (N, P) of a network's features, resized to these cells."""
    import torch

    from kdtune.losses.class_centres import labels_of, to_centre

    classes = output.logits.shape[1]
    with torch.autocast(output.logits.device.type, enabled=False):  # it would multiply matrices in bfloat16
        (feature,) = at_least_float32(output.taps["psp"])
        feature = resized(feature, cells)
        return to_centre(feature, labels_of(target, feature, classes), classes)
