"""The networks by the names that study files use."""

from kdtune.registry import Registry

MODELS = Registry(
    "model",
    "kdtune.models",
    {
        "pspnet": "kdtune.models.pspnet:PSPNetModel",
        "external": "kdtune.models.external:ExternalModel",
    },
)
