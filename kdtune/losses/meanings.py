"""What each parameter of a loss term means, in a line; the term's docstring says it in full."""

SHARED = {
    "weight": "lambda: times the term's value",
    "temperature": "tau: distributions are those of values divided by it",
    "tap": "the feature map that is compared",
    "convention": "whose code's sums and means",
    "pool": "[cells] side of the windows that are averaged first",
    "cells": "regions a side to which a map is averaged",
    "layers": "the feature maps, from the first to the last",
    "aux_weight": "times the same of the auxiliary heads, added",
    "levels": "of the pyramid",
    "upsample": "compares at the labels' size, not at the student's stride",
    "acknowledge_patent": "the method is patented: true says that it may be used here",
    "scale": "kappa: times the cosine with a class's prototype",
    "adapter_lr": "learning rate of the teacher's adapter",
    "compression": "channels of the encoding, as a share of the teacher's",
    "batches": "that the encoder is trained with, before the student",
    "encoder_lr": "its learning rate",
    "sparsity": "times the sum of an image's encoding, in the encoder's own loss",
    "sampled": "that are compared with, over all classes",
}
OWN = {
    "pa": {"pool": "window as a share of the map's height and width"},
    "ho": {
        "convention": "whose optimiser the critic has",
        "adversary": "the critic's loss",
        "gradient_penalty": "lambda_gp, in the critic's loss; 0 with a hinge",
        "critic_weight": "lambda_d: times the critic's own loss",
        "critic_lr": "the critic's learning rate",
        "critic_steps": "of the critic, after each of the student",
        "critic_width": "times the critic's channels",
        "preprocessing": "of the logits, before the critic",
        "input_size": "[cells] to which a map is enlarged that has a side below 64",
    },
    "cwd": {
        "tap": "the feature map that is compared, or the logits",
        "normalise_over": "cells: each channel is a distribution; channels: each cell is",
        "divergence": "between the two distributions",
        "convention": "the divisor: the teacher's channels (paper), or the student's own",
    },
    "nfd": {"normalise_over": "cells: of each channel; channels: of each cell"},
    "dist": {"beta": "times the correlation over the classes of a cell", "gamma": "times that over the cells"},
    "dkd": {"alpha": "times the label's class against the rest", "beta": "times the other classes among themselves"},
    "mgd": {"masked": "share of the student's cells that is left out"},
    "idd_position": {"batches": "that the reader of positions is fitted to, before the student"},
    "sstkd_statistical": {
        "levels": "of intensity, in the histogram",
        "limit": "of a level, in shares of an even histogram; what is above goes to all",
    },
    "fakd": {"strength": "lambda at the end of the training: how far features are moved"},
    "cirkd_memory_pixel": {
        "size": "cells of the teacher that are kept of each class",
        "per_image": "cells of each class and image that enter",
        "convention": "which cells enter: the class's own (paper), or as CIRKD's code has it",
    },
    "cirkd_memory_region": {"size": "regions of the teacher that are kept of each class"},
}


def meaning(term: str, key: str) -> str:
    """Of a term's parameter, by its name in studies; nothing of one that another package brings."""
    return OWN.get(term, {}).get(key) or SHARED.get(key, "")
