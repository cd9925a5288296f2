"""Where a network is active: maps of squared activations, as L_AT and L_PSD compare them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(feature: Tensor) -> Tensor:
    """(N, C, h, w) to (N, P): the mean of squares over the channels, each row of length 1."""
    # The norm over the channels reduces without a squared copy of the features.
    activity = torch.linalg.vector_norm(feature, dim=1).square() / feature.shape[1]  # (N, h, w)
    return F.normalize(activity.flatten(1), dim=1, eps=1e-12)
