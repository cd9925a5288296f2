"""L_IFV: features spread around the centre of their class as they do in the teacher."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.base import LossTerm, SegOutput, Tap, align


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
    taps: ClassVar[frozenset[Tap]] = frozenset({"psp"})

    convention: Literal["ifvd"] = "ifvd"

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        """See the class."""
        assert teacher is not None
        from_student = student.taps["psp"]  # (N, C, h, w)
        dtype = torch.promote_types(from_student.dtype, torch.float32)
        with torch.autocast(from_student.device.type, enabled=False):  # it would multiply matrices in bfloat16
            from_student = from_student.to(dtype)
            from_teacher = align(teacher.taps["psp"].detach().to(dtype), from_student)  # (N, C_T, h, w)
            member = _membership(target, from_student, student.logits.shape[1])
            difference = _similarity_to_centre(from_teacher, member) - _similarity_to_centre(from_student, member)
            return difference.square().mean()


def _membership(target: Tensor, like: Tensor, num_classes: int) -> Tensor:
    """One-hot labels (N, P, K) of the cells of ``like``; a row of zeros where the cell is ignored."""
    labels = F.interpolate(target[:, None].float(), size=like.shape[-2:], mode="nearest")  # (N, 1, h, w)
    labels = labels.flatten(1).long().clamp(max=num_classes)  # (N, P), ignored: K
    return F.one_hot(labels, num_classes + 1)[..., :num_classes].to(like.dtype)


def _similarity_to_centre(feature: Tensor, member: Tensor) -> Tensor:
    feature = feature.flatten(2)  # (N, C, P)
    # Sums as products with the one-hot labels: unlike scatter_add, the same to the last bit on every GPU run.
    centre = feature @ member / (member.sum(dim=1, keepdim=True) + 1e-6)  # (N, C, K)
    ignored = member.sum(dim=2) == 0  # (N, P)
    centre = torch.where(ignored[:, None], feature, centre @ member.mT)  # (N, C, P)
    return F.cosine_similarity(feature, centre, dim=1)  # (N, P)
