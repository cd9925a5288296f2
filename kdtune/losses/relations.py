"""How alike the regions of a map are, as L_SA and L_LC compare them."""

import torch.nn.functional as F
from torch import Tensor

from kdtune.resize import pooled


def cosines(feature: Tensor, cells: int) -> Tensor:
    """(N, C, h, w) to (N, M, M), of the means over ``cells`` x ``cells`` regions; fewer where the map has fewer."""
    height, width = feature.shape[-2:]
    if height > cells or width > cells:
        feature = pooled(feature, min(cells, height, width))
    regions = F.normalize(feature.flatten(2), dim=1, eps=1e-12)  # (N, C, M)
    return regions.mT @ regions
