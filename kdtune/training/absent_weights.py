"""Weights that a study names and that are not there: where to get them."""

import os
from typing import Literal

# What the paper's studies name as their teacher -> where its authors have it, its layout, its dataset.
PUBLISHED: dict[str, tuple[str, Literal["skd", "semseg"], str]] = {
    "published/skd-cityscapes": (
        "the 'teacher weight' that the README of github.com/irfanICMLL/structure_knowledge_distillation links",
        "skd",
        "cityscapes",
    ),
    "published/semseg-voc": (
        "the PSPNet101 for PASCAL VOC 2012 among the trained models that the README of github.com/hszhao/semseg links",
        "semseg",
        "voc",
    ),
    "published/semseg-ade20k": (
        "the PSPNet101 for ADE20K among the trained models that the README of github.com/hszhao/semseg links",
        "semseg",
        "ade20k",
    ),
}


def absent(path: str, reference: str) -> str:
    """The line for a checkpoint that is not there."""
    if reference in PUBLISHED:
        where, layout, dataset = PUBLISHED[reference]
        return (
            f"{path}: '{reference}' does not come with kdtune: get {where}, convert it with: kdtune teacher import "
            f"FILE -o OUT.safetensors --layout {layout} --dataset {dataset}; then launch with --teacher OUT.safetensors"
        )
    if os.path.isdir(reference):
        return (
            f"{path}: '{reference}' is a folder without a config.json and a model.safetensors, as transformers writes "
            "them; give such a folder, or a file of weights"
        )
    if path.startswith("warm_start"):
        return f"{path}: no such file '{reference}'; give student.init or warm_start.checkpoint a file of weights"
    return f"{path}: no such file '{reference}'; give a checkpoint with --teacher FILE"
