"""Weights: what is read, what is refused, and what the refusal says."""

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from kdtune.base import SegNet, UserError
from kdtune.models.pspnet import PSPNetModel
from kdtune.training.weights import Weights, WeightsRecord, load_weights, read_record, read_weights, weights_bytes
from tests.support.tiny import config


def network(seed: int = 0, classes: int = 12, **changes: Any) -> SegNet:
    torch.manual_seed(seed)
    return config({f"student.{key}": value for key, value in changes.items()}).student.build(classes)


def equal(one: SegNet, other: SegNet) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


WRITERS: dict[str, Callable[[Weights, Path], None]] = {
    "weights.safetensors": lambda state, path: safetensors.torch.save_file(state, path),
    "weights.pt": lambda state, path: torch.save(state, path),
    "nested.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3, "args": {"lr": 0.1}}, path),
    "reference.pth": lambda state, path: torch.save({"model": state, "optimizer": {"state": {}}}, path),
    "parallel.pt": lambda state, path: torch.save({f"module.{key}": value for key, value in state.items()}, path),
    "compiled.pt": lambda state, path: torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, path),
    "both.pt": lambda state, path: torch.save({f"module._orig_mod.{k}": v for k, v in state.items()}, path),
    "tutorial.pt": lambda state, path: torch.save({"epoch": 3, "model_state_dict": state}, path),
    "model_state.pt": lambda state, path: torch.save({"cur_itrs": 3, "model_state": state, "best_score": 0.5}, path),
    "net.pt": lambda state, path: torch.save({"net": state, "acc": 0.5}, path),
    "average.pt": lambda state, path: torch.save({"state_dict_ema": state, "epoch": 3}, path),
    "lightning.ckpt": lambda state, path: torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_loads(tmp_path: Path, name: str) -> None:
    source, target = network(seed=1), network(seed=2)
    WRITERS[name](source.state_dict(), tmp_path / name)
    assert not equal(source, target)
    load_weights(target, read_weights(str(tmp_path / name)), name)
    assert equal(source, target)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    half = {key: value.half() if value.is_floating_point() else value for key, value in source.state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "half.safetensors")
    load_weights(target, read_weights(str(tmp_path / "half.safetensors")), "half")
    for key, value in target.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype
        assert torch.equal(value, half[key].to(value.dtype))


@pytest.mark.parametrize("kind", ["whole network", "ordered dict of numbers", "dict of numbers"])
def test_the_advice_for_a_file_that_could_run_code_works(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that is printed is typed in, and what it makes is read."""
    monkeypatch.chdir(tmp_path)
    source, target = network(seed=1), network(seed=2)
    numbers = {"state_dict": source.state_dict(), "best": np.float64(71.3)}  # weights_only refuses numpy's numbers
    saved: Any = {"whole network": Holder(source), "dict of numbers": numbers}.get(kind, OrderedDict(numbers))
    torch.save(saved, "theirs.pth")
    with pytest.raises(UserError) as refused:
        read_weights("theirs.pth")
    (advice,) = re.findall(r"torch\.save\(.*\)$", str(refused.value))
    exec(advice, {"torch": torch})
    load_weights(target, read_weights("plain.pth"), "plain")
    assert equal(source, target)


class Holder(torch.nn.Module):
    """A network that can be pickled whole, as ``torch.save(model, path)`` does."""

    def __init__(self, network: SegNet) -> None:
        super().__init__()
        for name, part in network.named_children():
            self.add_module(name, part)


def test_a_file_that_unpacks_to_far_more(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read_weights(str(tmp_path / "plain.pth"))["a"].numel() == 10_000_000
    with pytest.raises(UserError, match=r"packed\.pth: not a file of weights .*: it unpacks to more than ten times"):
        read_weights(str(tmp_path / "packed.pth"))


def test_a_list_is_named_as_such(tmp_path: Path) -> None:
    torch.save([network().state_dict()], tmp_path / "list.pt")
    with pytest.raises(UserError, match="it holds a list, not a mapping of names to tensors"):
        read_weights(str(tmp_path / "list.pt"))


def test_written_weights_come_back(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(source))
    load_weights(target, read_weights(f"file://{tmp_path}/w.safetensors?unused=a/b"), "w")
    assert equal(source, target)


def test_a_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(network()))
    monkeypatch.chdir(tmp_path)
    assert read_weights("w.safetensors").keys() == network().state_dict().keys()


def test_counters_of_batch_norm_may_be_missing() -> None:
    source, target = network(seed=1), network(seed=2)
    given = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(target, given, "old.pth")
    assert equal(source, target)


def test_another_architecture_names_the_first_of_each_kind() -> None:
    target = network()
    given = {f"x.{key}" if "classifier" in key else key: value for key, value in target.state_dict().items()}
    given["backbone.conv1.weight" if "backbone.conv1.weight" in given else next(iter(given))] = torch.zeros(2, 3)
    with pytest.raises(UserError) as caught:
        load_weights(target, given, "other.pth")
    message = str(caught.value)
    assert message.startswith("other.pth: weights of another architecture: 2 missing, first classifier.weight; ")
    assert "2 unknown, first x.classifier.weight; 1 of other shape, first backbone." in message
    assert "is (2, 3), the network has (" in message
    assert "change the study's model" in message
    assert "\n" not in message


def test_a_refused_file_changes_nothing() -> None:
    target, before = network(), network()
    with pytest.raises(UserError, match=r"of other shape, first backbone.*"):
        load_weights(target, network(seed=3, width=0.125).state_dict(), "wide.pt")
    assert equal(target, before)


def test_other_classes_fit_the_backbone_only() -> None:
    source, target, before = network(seed=1, classes=5), network(seed=2), network(seed=2)
    with pytest.raises(UserError, match=r"of other shape, first classifier\.weight is \(5, 8, 1, 1\)"):
        load_weights(target, source.state_dict(), "five.pt")
    load_weights(target, source.state_dict(), "five.pt", part="backbone")
    assert all(torch.equal(v, source.backbone.state_dict()[k]) for k, v in target.backbone.state_dict().items())
    for head in ("pyramid", "classifier", "auxiliary"):
        old = getattr(before, head).state_dict()
        assert all(torch.equal(v, old[k]) for k, v in getattr(target, head).state_dict().items())


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/none.pt: no such weights file"):
        read_weights(f"{tmp_path}/none.pt")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: is a folder, not a weights file"):
        read_weights(str(tmp_path))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "efficientnet_b0", "mobilenet_v3_large"])
def test_a_classification_network_of_torchvision_starts_a_backbone(backbone: str) -> None:
    """Its classifier, and the last convolution that kdtune leaves out, are ignored."""
    torch.manual_seed(1)
    given = torchvision.models.get_model(backbone, weights=None).state_dict()
    torch.manual_seed(2)
    target = PSPNetModel.model_validate({"backbone": backbone}).build(4)
    heads = {k: v.clone() for k, v in target.state_dict().items() if not k.startswith("backbone.")}
    load_weights(target, given, "imagenet.pth", part="backbone")
    assert all(torch.equal(value, given[key]) for key, value in target.backbone.state_dict().items())
    assert all(torch.equal(target.state_dict()[key], value) for key, value in heads.items())


@pytest.mark.parametrize(("given", "own"), [("resnet34", "resnet18"), ("resnet18", "resnet34")])
def test_a_classification_network_of_another_depth_is_refused(given: str, own: str) -> None:
    state = torchvision.models.get_model(given, weights=None).state_dict()
    target = PSPNetModel.model_validate({"backbone": own}).build(4)
    with pytest.raises(UserError, match=r"imagenet\.pth: weights of another architecture: .*first layer1\.2\.conv1"):
        load_weights(target, state, "imagenet.pth", part="backbone")


def test_a_record_travels_with_the_weights(tmp_path: Path) -> None:
    record = WeightsRecord(model={"name": "pspnet", "backbone": "resnet18"}, num_classes=12, classes=("a", "ü"))
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(network(), record))
    (tmp_path / "bare.safetensors").write_bytes(weights_bytes(network()))
    torch.save(network().state_dict(), tmp_path / "w.pt")
    assert read_record(str(tmp_path / "w.safetensors")) == record
    assert read_record(f"file://{tmp_path}/w.safetensors?unused=a/b") == record
    for name in ("bare.safetensors", "w.pt", "none.safetensors"):
        assert read_record(str(tmp_path / name)) is None
    load_weights(target := network(seed=2), read_weights(str(tmp_path / "w.safetensors")), "w")
    assert equal(target, network())


def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"kdtune": '{"model": {}, "num_classes": 0}'})
    with pytest.raises(UserError, match="its kdtune record cannot be read \\(at 'num_classes'\\)"):
        read_record(str(path))
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match="not a safetensors file, or damaged"):
        read_record(str(path))


def test_tied_weights_are_written() -> None:
    net = network()
    net.tied = net.classifier
    assert safetensors.torch.load(weights_bytes(net))["tied.weight"].equal(net.classifier.weight)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_a_file_that_is_cut_off_says_so(tmp_path: Path, name: str) -> None:
    WRITERS[name.replace("cut", "weights")](network().state_dict(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="it is cut off or damaged; get it again") as caught:
        read_weights(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt", "list.pt", "empty.pt", "text.txt"])
def test_not_a_file_of_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "list.pt":
        torch.save([1, 2, 3], path)
    else:
        text = b"hello\n" if name == "text.txt" else b"<html>404</html>"
        path.write_bytes(b"" if name == "empty.pt" else text)
    with pytest.raises(UserError, match=f"{path}: not a file of weights") as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(": it is another kind of file") == (name in ("broken.pt", "text.txt"))


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "extra": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="not a file of weights") as caught:
        read_weights(str(tmp_path / "trap.pt"))
    for words in ("mkdir, which is no tensor and could run code", "torch.save(torch.load('", "plain.pth"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
