"""The networks by the names that study files use: PSPNet on several backbones, and any that a function builds.

Knows ``kdtune.base``. What a study says of a network lies apart from what torch makes of it. Begin with ``pspnet``;
``external`` takes networks of other packages, ``published`` renames the weights of the authors' own.
"""

from kdtune.registry import Registry

MODELS = Registry(
    "model",
    "kdtune.models",
    {
        "pspnet": "kdtune.models.pspnet:PSPNetModel",
        "external": "kdtune.models.external:ExternalModel",
    },
)
