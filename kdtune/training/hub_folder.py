"""A folder of weights as transformers writes it: which network, which classes, how it wants its images.

Only its JSON is read, as data. Of the network it may say the fields of a configuration of transformers' own classes;
code that it brings along is not run, and nothing is fetched.
"""

import re
from collections.abc import Mapping
from typing import Any

from kdtune.base import UserError
from kdtune.filesystem import json_text
from kdtune.filesystem.folder import Folder

WEIGHTS = "model.safetensors"
FILES = (".safetensors", ".pth", ".pt")
CLASS = re.compile(
    r"[A-Z][A-Za-z0-9]*ForSemanticSegmentation"
)  # of transformers; the one part of its API a folder names
# fields of a configuration that say nothing of the architecture, that name the classes, or that would choose code
LEFT_OUT = {
    "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "quantization_config", "id2label",
    "label2id", "num_labels", "attn_implementation", "experts_implementation", "use_kernels", "use_cache",
}  # fmt: skip
ELSEWHERE = ("backbone", "use_pretrained_backbone", "use_timm_backbone")  # a network that another package would fetch

# Where the feature maps are, by the kind of network; of another, `kdtune models check` lists the modules
MAPS: dict[str, dict[str, Any]] = {
    "segformer": {
        "taps": {f"layer{i + 1}": f"segformer.stages.{i}" for i in range(4)} | {"psp": "decode_head.dropout"},
        "classifier": "decode_head.classifier",
        "backbone": "segformer",
    },
    "upernet": {
        "taps": {"psp": "decode_head.fpn_bottleneck"},
        "classifier": "decode_head.classifier",
        "backbone": "backbone",
    },
}


def weights_of(given: str) -> str:
    """The file of a teacher's weights: of such a folder the one in it, else what was given.

    Raises:
        UserError: the folder has no such file.
    """
    if given.endswith(FILES) or given.startswith(("stage:", "trial:", "sha256:")):
        return given
    folder = Folder(given)
    if not folder.exists("config.json"):
        return given
    if folder.exists(WEIGHTS):
        return (folder / WEIGHTS).uri
    if folder.exists(f"{WEIGHTS}.index.json"):
        raise UserError(
            f"{given}: its weights lie in several files: save them as one, with transformers' "
            "save_pretrained(DIR, max_shard_size='100GB')"
        )
    raise UserError(
        f"{given}: has a config.json but no {WEIGHTS}; other files of weights may run code and are not read"
    )


def folder_fields(file: str) -> dict[str, Any] | None:
    """The fields of a weights' record, told by the folder that the file lies in; none where it is no such folder.

    Raises:
        UserError: the folder's network is none that segments, or it cannot be read.
    """
    folder, name = Folder(file).split()
    config = _json(folder, "config.json") if name == WEIGHTS else None
    if config is None or "model_type" not in config:
        return None
    try:
        return _fields(config, _json(folder, "preprocessor_config.json") or {}, folder.uri)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{folder.uri}: its config.json or preprocessor_config.json holds what transformers does not write there "
            f"({error}); get the folder again"
        ) from None


def _fields(config: Mapping[str, Any], processor: Mapping[str, Any], where: str) -> dict[str, Any]:
    named = config.get("architectures") or ["nothing"]
    kind = str(named[0])
    if not CLASS.fullmatch(kind):
        raise UserError(f"{where}: its config.json names {kind!r}, not a class ...ForSemanticSegmentation")
    classes = _classes(config)
    known = MAPS.get(str(config["model_type"]), {})
    return {
        "model": {
            "name": "external",
            "builder": f"transformers:{kind}",
            "arguments": {k: v for k, v in _architecture(config, where).items() if k != "model_type"},
            "output": "logits",
            "preprocessing": _preprocessing(processor),
            **known,
        },
        "num_classes": len(classes),
        "classes": None if all(re.fullmatch(r"LABEL_\d+", each) for each in classes) else classes,
        "source": {"layout": "transformers", **_labels(processor)},
        "size": _size(processor),
    }


def _json(folder: Folder, name: str) -> dict[str, Any] | None:
    content = folder.read(name)
    if content is None:
        return None
    try:
        found = json_text.parsed(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{folder.uri}/{name}: not a JSON object, or damaged; get it again")
    return found


def chooses_code(model: Mapping[str, Any]) -> bool:
    """Whether a network, as a file describes it, is more than a plain configuration of transformers' own classes."""
    module, _, name = str(model.get("builder")).partition(":")
    return module != "transformers" or not CLASS.fullmatch(name) or not _is_plain(model.get("arguments", {}))


def _is_plain(part: Any) -> bool:
    if isinstance(part, list):
        return all(map(_is_plain, part))
    if not isinstance(part, dict):
        return True
    odd = [key for key in part if key in LEFT_OUT or key.startswith("_") or (key in ELSEWHERE and part[key])]
    return not odd and all(map(_is_plain, part.values()))


def _architecture(part: Any, where: str) -> Any:
    """What the network is made of, without what names code, or networks elsewhere, in every part."""
    if isinstance(part, list):
        return [_architecture(each, where) for each in part]
    if not isinstance(part, dict):
        return part
    for key in ELSEWHERE:
        if part.get(key):
            raise UserError(f"{where}: its config.json has {key}: {part[key]!r}, which another package would fetch")
    kept = {k: v for k, v in part.items() if k not in LEFT_OUT and k not in ELSEWHERE and not k.startswith("_")}
    return {key: _architecture(value, where) for key, value in kept.items()}


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if isinstance(named, dict) and all(str(key).isdecimal() for key in named):
        return tuple(str(named[key]).strip() for key in sorted(named, key=int))
    return tuple(f"LABEL_{i}" for i in range(int(config.get("num_labels", 2))))


def _labels(processor: Mapping[str, Any]) -> dict[str, str]:
    reduced = processor.get("do_reduce_labels", processor.get("reduce_labels", False))
    return {"reduce_labels": "true"} if reduced else {}


def _preprocessing(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Kdtune's numbers, of values from 0 to 255; without a file, those of the package: ImageNet's."""
    if not processor:
        return {}
    factor = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", True) or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    numbers = {name: [round(float(v) / factor, 6) for v in values] for name, values in (("mean", mean), ("std", std))}
    return {"order": "bgr" if processor.get("do_flip_channel_order") else "rgb", **numbers}


def _size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that every image was resized to; none where its sides' ratio was kept."""
    size = processor.get("size")
    if processor.get("do_resize", True) and isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    return (size, size) if processor.get("do_resize", True) and isinstance(size, int) else None
