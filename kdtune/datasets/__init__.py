"""The datasets by the names that study files use."""

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
    },
)
