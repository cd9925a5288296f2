"""The datasets by the names that study files use, and what is done with their folders: check, fetch, draw small ones.

Knows files and pixels; nothing of training. Begin with ``camvid``, the smallest reader; ``files`` pairs images with
labels, ``demo`` and ``street*`` draw scenes.
"""

from kdtune.registry import Registry

DATASETS = Registry(
    "dataset",
    "kdtune.datasets",
    {
        "demo": "kdtune.datasets.demo:Demo",
        "camvid": "kdtune.datasets.camvid:CamVid",
        "cityscapes": "kdtune.datasets.cityscapes:Cityscapes",
        "voc": "kdtune.datasets.voc:Voc",
        "ade20k": "kdtune.datasets.ade20k:Ade20k",
        "folder": "kdtune.datasets.folder:AnyFolder",
    },
)
