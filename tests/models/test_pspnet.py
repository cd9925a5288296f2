"""PSPNet against outputs and gradients of the authors' own networks, and what its configuration refuses."""

import copy
import functools
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torchvision.ops import StochasticDepth

from kdtune.base import IGNORE, SegNet, SegOutput, Tap, UserError
from kdtune.models.pspnet import PSPNetModel
from kdtune.models.published import from_semseg, from_skd

FOLDER = Path(os.environ.get("KDTUNE_GOLDEN") or Path(__file__).resolve().parents[2].parent / "shared" / "golden")
golden = pytest.mark.skipif(
    not (FOLDER / "manifest.json").is_file(),
    reason="no golden values: neither KDTUNE_GOLDEN nor ../shared/golden is a folder with a manifest.json",
)

EVERYTHING: frozenset[Tap] = frozenset(("stem", "layer1", "layer2", "layer3", "layer4", "psp", "logits", "aux"))
SKD_BACKBONES = {"r18": "resnet18", "r101": "resnet101"}


@functools.cache
def read_json(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def case_of(case_id: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest's entry and the arrays of a case."""
    case = next(case for case in read_json("manifest.json")["cases"] if case["id"] == case_id)
    with np.load(FOLDER / case["file"]) as arrays:
        return case, dict(arrays)


def tensor_by_recipe(tag: str, key: str, shape: list[int], *, signed: bool) -> np.ndarray:
    """One tensor of the manifest's weight recipe, float32."""
    seed = zlib.crc32(f"{tag}:{key}".encode())
    uniform = np.random.RandomState(seed).random_sample(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    symmetric = 2 * uniform - 1
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        value: Any = np.zeros(shape)
    elif last == "running_mean":
        value = 0.1 * symmetric
    elif last == "running_var":
        value = 0.5 + uniform
    elif len(shape) >= 2:
        value = symmetric * np.sqrt(3 / np.prod(shape[1:]))
    elif last == "weight":
        value = symmetric if signed else 0.75 + 0.5 * uniform
    else:
        value = 0.1 * symmetric
    return np.asarray(value, dtype="<f4")


def state_by_recipe(recipe: dict[str, str]) -> dict[str, Tensor]:
    """The authors' state dict of a case, checked against its digest, in float64."""
    entry = read_json("state_dict_keys.json")[recipe["keys"].split(": ")[1]]
    tag, signed = recipe["tag"], recipe["bn"] == "signed"
    arrays = {key: tensor_by_recipe(tag, key, shape, signed=signed) for key, shape in entry["state_dict"]}
    digest = hashlib.sha256()
    for key in sorted(arrays):
        if not key.endswith("num_batches_tracked"):
            digest.update(key.encode() + arrays[key].tobytes())
    assert digest.hexdigest() == recipe["sha256"]
    return {key: torch.from_numpy(value).double() for key, value in arrays.items()}


def network_of(case: dict[str, Any]) -> tuple[SegNet, dict[str, str]]:
    """The case's network in float64 with the case's weights, and the authors' key -> our key."""
    theirs, args = state_by_recipe(case["state_by_recipe"]), case["init_args"]
    if "arch" in args:
        fields = {"backbone": SKD_BACKBONES[args["arch"]], "variant": "skd"}
        state = from_skd(theirs, inplace_abn=args["bn_affine"] != "weight")
    else:
        fields = {"backbone": f"resnet{args['layers']}", "variant": "semseg"}
        state = from_semseg(theirs)
    config = PSPNetModel.model_validate({**fields, "stem": "deep", "dropout": 0})
    network = config.build(args.get("classes") or args["num_classes"]).double()
    network.load_state_dict(state)
    return network, dict(zip(theirs, state, strict=True))


def assert_close(actual: Tensor, expected: np.ndarray, name: str) -> None:
    """Equal but for 1e-6 of the greatest expected value, which was rounded to float32."""
    wanted = torch.from_numpy(expected).double()
    assert actual.shape == wanted.shape, name
    worst = float((actual.detach() - wanted).abs().max())
    assert worst <= 1e-6 * float(wanted.abs().max()), f"{name}: off by {worst}"


def assert_all_close(actual: np.ndarray, expected: np.ndarray, names: np.ndarray) -> None:
    """Each value within 1e-6 of its size; what is 0 (a bias before BatchNorm) within 1e-9 of the greatest."""
    off = np.abs(actual - expected) - 1e-6 * np.abs(expected) - 1e-9 * np.abs(expected).max()
    assert off.max() <= 0, f"{names[off.argmax()]}: {actual[off.argmax()]} for {expected[off.argmax()]}"


def upsampled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    up = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=True)
    return F.cross_entropy(up, labels, ignore_index=IGNORE)


def run_training_step(network: SegNet, arrays: dict[str, np.ndarray]) -> tuple[SegOutput, Tensor, Tensor]:
    """Forward in train mode and backward of main + 0.4 auxiliary cross entropy: output, both losses."""
    labels = torch.from_numpy(arrays["in.labels"]).long()
    output = network.train()(torch.from_numpy(arrays["in.x"]).double())
    assert output.aux is not None
    main, aux = upsampled_loss(output.logits, labels), upsampled_loss(output.aux, labels)
    (main + 0.4 * aux).backward()  # type: ignore[no-untyped-call]
    return output, main.detach(), aux.detach()


def gradient_norms(network: SegNet, names: list[str]) -> np.ndarray:
    gradients = [network.get_parameter(name).grad for name in names]
    return np.array([0.0 if gradient is None else float(gradient.norm()) for gradient in gradients])


@golden
@pytest.mark.parametrize(
    "case_id", ["skd_r18_129x129_v1", "skd_r18_96x128_v2", "skd_r18_absgamma_v3", "skd_r101_129x129_v1"]
)
def test_skd_networks_give_the_authors_maps(case_id: str) -> None:
    case, arrays = case_of(case_id)
    network, _ = network_of(case)
    with torch.no_grad():
        output = network.eval()(torch.from_numpy(arrays["in.x"]).double(), EVERYTHING)
    assert output.aux is output.taps["aux"]
    named = {**output.taps, "logits": output.logits, "logits_dsn": output.taps["aux"]}
    named["feat_after_psp"] = named["psp"]
    for name in case["outputs"]:
        ours = named[name][0]  # (C, h, w)
        assert_close(ours[:: int(arrays[f"channel_step.{name}"])][None], arrays[f"out.{name}"], name)
        assert_close(ours.mean(dim=(1, 2)), arrays[f"mean.{name}"], name)
        assert_close(ours.std(dim=(1, 2), correction=0), arrays[f"std.{name}"], name)


@golden
def test_skd_network_trains_as_the_authors_does() -> None:
    case, arrays = case_of("skd_r18_train_v1")
    network, ours = network_of(case)
    output, main, aux = run_training_step(network, arrays)

    assert float(main + 0.4 * aux) == pytest.approx(float(arrays["out.loss"]), rel=1e-7)
    assert_close(output.logits, arrays["out.logits"], "logits")
    assert output.aux is not None
    assert_close(output.aux, arrays["out.logits_dsn"], "aux")

    names = [ours[name] for name in arrays["grad_names"]]
    assert set(names) == {name for name, _ in network.named_parameters()}
    assert_all_close(gradient_norms(network, names), arrays["grad_l2"], arrays["grad_names"])
    for key in (key for key in arrays if key.startswith("gradparam.")):
        gradient = network.get_parameter(ours[key.removeprefix("gradparam.")]).grad
        assert gradient is not None
        assert_close(gradient, arrays[key], key)

    running = [network.get_buffer(ours[name]) for name in arrays["running_names"]]
    sums = np.array([float(buffer.sum()) for buffer in running])
    norms = np.array([float(buffer.norm()) for buffer in running])
    assert_all_close(sums, arrays["running_sum"], arrays["running_names"])
    assert_all_close(norms, arrays["running_l2"], arrays["running_names"])


@golden
@pytest.mark.parametrize("case_id", ["semseg_psp50_c21_v1", "semseg_psp101_c150_v1"])
def test_semseg_networks_give_the_authors_logits(case_id: str) -> None:
    case, arrays = case_of(case_id)
    network, _ = network_of(case)
    image = torch.from_numpy(arrays["in.x"]).double()
    with torch.no_grad():
        output = network.eval()(image)
    assert output.aux is None
    assert output.taps == {}
    assert_close(output.logits, arrays["out.logits_every8"], "logits")

    full = F.interpolate(output.logits, size=image.shape[-2:], mode="bilinear", align_corners=True)
    assert_close(full[:, :3], arrays["out.logits_first3"], "upsampled logits")
    assert_close(full[0].mean(dim=(1, 2)), arrays["mean.logits"], "mean")
    assert_close(full[0].std(dim=(1, 2), correction=0), arrays["std.logits"], "std")
    assert np.array_equal(full.argmax(dim=1).numpy(), arrays["out.argmax"])


@golden
def test_semseg_network_trains_as_the_authors_does() -> None:
    case, arrays = case_of("semseg_psp50_train_v1")
    network, ours = network_of(case)
    output, main, aux = run_training_step(network, arrays)

    assert float(main) == pytest.approx(float(arrays["out.main_loss"]), rel=1e-7)
    assert float(aux) == pytest.approx(float(arrays["out.aux_loss"]), rel=1e-7)
    size = arrays["in.labels"].shape[-2:]
    full = F.interpolate(output.logits, size=size, mode="bilinear", align_corners=True)
    assert np.array_equal(full.argmax(dim=1).numpy(), arrays["out.argmax"])

    names = [ours[name] for name in arrays["grad_names"]]
    assert set(names) == {name for name, _ in network.named_parameters()}
    assert_all_close(gradient_norms(network, names), arrays["grad_l2"], arrays["grad_names"])


@golden
@pytest.mark.parametrize(
    ("entry", "fields"),
    [
        ("skd_r18", {"backbone": "resnet18"}),
        ("skd_r101", {"backbone": "resnet101"}),
        ("semseg_psp50_c150", {"backbone": "resnet50", "variant": "semseg"}),
        ("semseg_psp101_c21", {"backbone": "resnet101", "variant": "semseg"}),
    ],
)
def test_published_keys_and_shapes_are_exactly_ours(entry: str, fields: dict[str, str]) -> None:
    reference = read_json("state_dict_keys.json")[entry]
    with torch.device("meta"):
        network = PSPNetModel.model_validate({**fields, "stem": "deep"}).build(reference["classes"])
        theirs = {f"module.{key}": torch.empty(shape) for key, shape in reference["state_dict"]}
    state = from_semseg(theirs) if "variant" in fields else from_skd(theirs, inplace_abn=True)
    own = {k: v.shape for k, v in network.state_dict().items()}
    batches = {key for key in own if key.endswith("num_batches_tracked")}  # InPlaceABN has none
    assert {key: value.shape for key, value in state.items()} | {key: own[key] for key in batches} == own
    assert sum(p.numel() for p in network.parameters()) == reference["n_parameters"]


def test_a_key_of_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"'fc\.weight' is no key of SKD's Res_pspnet"):
        from_skd({"fc.weight": torch.zeros(1)}, inplace_abn=False)
    with pytest.raises(ValueError, match=r"'fc\.weight' is no key of semseg's PSPNet"):
        from_semseg({"fc.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backbone": "resnet18", "init": "imagenet", "stem": "deep"}, ["imagenet", "deep"]),
        ({"backbone": "resnet18", "init": "imagenet", "width": 0.5}, ["imagenet", "width=0.5"]),
        ({"backbone": "efficientnet_b0", "stem": "deep"}, ["efficientnet_b0", "deep"]),
        ({"backbone": "efficientnet_b0", "width": 0.25}, ["efficientnet_b0", "width=0.25"]),
        ({"backbone": "efficientnet_b0", "variant": "semseg"}, ["efficientnet_b0", "semseg"]),
        ({"backbone": "resnet152"}, ["resnet152", "resnet18", "resnet34", "mobilenet_v3_large"]),
        ({"backbone": "mobilenet_v3_large", "width": 0.5}, ["mobilenet_v3_large", "width=0.5"]),
        ({"backbone": "resnet18", "width": 0}, ["width", "greater than 0"]),
        ({"backbone": "resnet18", "dropout": 1}, ["dropout", "less than 1"]),
        ({"backbone": "resnet18", "depth": 3}, ["depth", "allowed", "backbone"]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_values(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        PSPNetModel.model_validate(fields)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(("width", "psp", "layer4"), [(1.0, 128, 512), (0.25, 32, 128), (0.1, 12, 52), (1e-3, 4, 4)])
def test_width_scales_every_channel_count_to_a_multiple_of_four(width: float, psp: int, layer4: int) -> None:
    network = PSPNetModel(backbone="resnet18", width=width).build(5)
    assert (network.channels["psp"], network.channels["layer4"]) == (psp, layer4)
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    outputs = [c.out_channels for c in convolutions if c.out_channels != 5]
    assert len(outputs) == len(convolutions) - 2
    assert {count % 4 for count in outputs} == {0}


@pytest.mark.parametrize(
    ("stem", "variant", "cells"),
    [("deep", "skd", 65), ("deep", "semseg", 64), ("plain", "skd", 64), (None, "skd", 64)],
)
def test_cells_of_a_512_pixel_crop(stem: str | None, variant: str, cells: int) -> None:
    fields = {"backbone": "resnet18", "stem": stem, "variant": variant}
    with torch.device("meta"):
        network = PSPNetModel.model_validate(fields).build(19)
        assert network(torch.zeros(2, 3, 512, 512)).logits.shape == (2, 19, cells, cells)


@pytest.mark.parametrize("variant", ["skd", "semseg"])
def test_logits_are_in_float32_under_autocast(variant: str) -> None:
    """Their last convolution alone: bfloat16 would round a logit of 16 to 32 by up to 0.06."""
    torch.manual_seed(1)
    network = PSPNetModel(name="pspnet", backbone="resnet18", width=0.0625, variant=variant).build(5)  # type: ignore[arg-type]
    taps = frozenset({"psp"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = network(torch.randn(2, 3, 33, 33), taps)
    assert made.aux is not None
    assert (made.logits.dtype, made.aux.dtype, made.taps["psp"].dtype) == (torch.float32, torch.float32, torch.bfloat16)
    precise = network.classifier(made.taps["psp"].float())
    torch.testing.assert_close(made.logits, precise, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("backbone", "width"), [("resnet18", 0.125), ("efficientnet_b0", 1), ("mobilenet_v3_large", 1)]
)
def test_after_a_tap_is_the_rest_of_the_network(backbone: str, width: float) -> None:
    """In evaluation and in training, where it is what the forward gave but for dropout; it leaves no trace."""
    torch.manual_seed(0)
    network = PSPNetModel.model_validate({"backbone": backbone, "width": width, "dropout": 0.0}).build(5)
    for each in network.modules():
        if isinstance(each, StochasticDepth):
            each.p = 0.0
    image, taps = torch.randn(2, 3, 64, 96), frozenset[Tap](("stem", "layer1", "layer2", "layer3", "layer4", "psp"))
    for training in (True, False):
        made = network.train(training)(image, taps)
        before = copy.deepcopy(network.state_dict())
        for tap in taps:
            torch.testing.assert_close(network.after(tap, made.taps[tap]), made.logits, rtol=0, atol=0)
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    with pytest.raises(UserError, match="PSPNet cannot run what follows 'aux' by itself"):
        network.after("aux", made.logits)


@pytest.mark.parametrize(("backbone", "width"), [("resnet18", 0.125), ("efficientnet_b0", 1)])
def test_after_a_tap_nothing_is_dropped_or_drawn(backbone: str, width: float) -> None:
    network = PSPNetModel.model_validate({"backbone": backbone, "width": width, "dropout": 0.9}).build(5).train()
    feature = network(torch.randn(2, 3, 64, 96), frozenset[Tap](("layer1",))).taps["layer1"]
    state = torch.random.get_rng_state()
    assert torch.equal(network.after("layer1", feature), network.after("layer1", feature))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert all(norm.track_running_stats for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d))
