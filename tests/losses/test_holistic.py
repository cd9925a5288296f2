"""L_HO: its critic against SKD's, its step, its state."""

import copy
import io
import logging
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdtune.base import SegOutput
from kdtune.losses.cross_entropy import CrossEntropy
from kdtune.losses.holistic import Holistic
from kdtune.losses.holistic_loss import Critic, HolisticLoss, SpectralConv, adversarial, slope_penalty
from kdtune.losses.intra_class_variation import IntraClassVariation
from kdtune.losses.pair_wise import PairWise
from kdtune.losses.pixel_wise import PixelWise
from tests.support.golden import Case, cases, close, our_name

TARGET = torch.zeros(1, 1, 1, dtype=torch.long)


def holistic(num_classes: int, **fields: Any) -> HolisticLoss:
    """A built term in float64; only the number of classes is read of the networks."""
    return HolisticLoss(Holistic(weight=1, **fields), num_classes).double()


def load(critic: Critic, case: Case) -> None:
    """The golden case's weights; SKD also stores v, which every forward computes anew from u."""
    critic.load_state_dict({our_name(k): v for k, v in case.state().items() if not k.endswith("weight_v")})


def check_gradients(critic: Critic, case: Case, loss: str) -> None:
    """Every parameter's gradient: its norm, and its entries where they are stored, to a millionth of its own norm."""
    assert case.recipe is not None
    skd_names = {our_name(key): key for key, _ in case.recipe["keys"]}
    parameters = dict(critic.named_parameters())
    largest = max(float(p.grad.norm()) for p in parameters.values() if p.grad is not None)
    compared = 0
    for name, parameter in parameters.items():
        if parameter.grad is None:  # the last bias, which no slope depends on
            continue
        for kind, actual in (("gradparam", parameter.grad), ("gradparam_l2", parameter.grad.norm())):
            expected = case.arrays.get(f"{kind}.{loss}.{skd_names[name]}")
            if expected is None:  # of large tensors only the norm is stored
                continue
            stored = torch.from_numpy(np.asarray(expected)).double()
            allowed = max(1e-6 * float(stored.norm()), 1e-14 * largest)  # some are 0 but for rounding
            torch.testing.assert_close(actual, stored, rtol=0, atol=allowed)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("case", cases("skd_discriminator"))
def test_critic(case: Case) -> None:
    """SKD's Discriminator: scores, attention, power step, batch statistics, gradients."""
    mode = {1: "batch_norm", 2: "tanh"}[case.args["preprocess_GAN_mode"]]
    term = holistic(case.args["input_channel"], preprocessing=mode)
    load(term.critic, case)
    term.critic.train(case.args["train_mode"]).requires_grad_(True)
    attended: dict[str, torch.Tensor] = {}
    for name in ("attend3", "attend4"):
        module = term.critic.get_submodule(name)
        module.register_forward_hook(lambda m, args, _, name=name: attended.update({name: m.weights(*args)}))

    logits = case.input("x", grad=True)
    scores = term.critic(logits)
    loss = -scores.mean()
    loss.backward()
    close(scores, case.out("out"))
    close(attended["attend3"][:, :4], case.out("attn1_rows0to3"))
    close(attended["attend4"], case.out("attn2"))
    for i in (1, 2, 3, 4):
        close(term.critic.get_buffer(f"halve{i}.u"), case.out(f"u_after.l{i}"))
    if mode == "batch_norm":
        close(term.critic.get_buffer("preprocessing.running_mean"), case.out("bn_mean_after"))
        close(term.critic.get_buffer("preprocessing.running_var"), case.out("bn_var_after"))
    case.check(loss, "loss_G")
    case.check_grad(logits, "x", loss="loss_G")
    check_gradients(term.critic, case, "loss_G")


@pytest.mark.parametrize("case", cases("skd_adv_D"))
def test_adversarial(case: Case) -> None:
    """SKD's CriterionAdv: the critic's loss on given scores."""
    real, fake = case.input("d_out_T", grad=True), case.input("d_out_S", grad=True)
    value = adversarial(real, fake, case.args["adv_type"])
    value.backward()
    case.check(value)
    case.check_grad(real, "d_out_T")
    case.check_grad(fake, "d_out_S")


@pytest.mark.parametrize("case", cases("skd_gp"))
def test_penalty(case: Case) -> None:
    """SKD's CriterionAdditionalGP, with its second derivatives."""
    critic = holistic(5).critic
    load(critic, case)
    critic.requires_grad_(True)
    maps = case.input("logits_T"), case.input("logits_S")
    value = case.args["lambda_gp"] * slope_penalty(critic, *maps, case.input("alpha"))
    value.backward()
    case.check(value)
    check_gradients(critic, case, "loss")


def check_critics_step(ho: HolisticLoss, case: Case, teacher: SegOutput, student: SegOutput) -> None:
    """The critic's loss and its gradients, from the critic as it was before the student's."""
    load(ho.critic, case)
    ho.critic.requires_grad_(True)
    loss = ho.critic_loss(teacher.logits, student.logits.detach(), case.input("alpha"))
    loss.backward()
    case.check(loss, "loss_D_total")
    check_gradients(ho.critic, case, "loss_D_total")


@pytest.mark.parametrize("case", cases("skd_total"))
def test_total(case: Case) -> None:
    """SKD's whole step: the student's loss of four terms, then the critic's, each from a fresh critic."""
    args = case.args
    fields = {"adversary": args["adv_loss_type"], "critic_weight": args["lambda_d"]}
    inputs = [case.input(name, grad=True) for name in ("logits_S", "logits_S_aux", "feat_S")]
    student = SegOutput(inputs[0], aux=inputs[1], taps={"psp": inputs[2]})
    teacher = SegOutput(case.input("logits_T"), taps={"psp": case.input("feat_T")})
    target, classes = case.input("labels"), inputs[0].shape[1]

    ho = holistic(classes, **fields)
    load(ho.critic, case)
    total = CrossEntropy(weight=1)(student, teacher, target)
    total = total + args["lambda_pi"] * PixelWise(weight=1, convention="skd")(student, teacher, target)
    total = total + args["lambda_pa"] * PairWise(weight=1)(student, teacher, target)
    total = total + args["lambda_d"] * ho(student, teacher, target)
    total.backward()
    case.check(total, "loss_G_total")
    for tensor, name in zip(inputs, ("logits_S", "logits_S_aux", "feat_S"), strict=True):
        case.check_grad(tensor, name, loss="loss_G_total")
    assert all(p.grad is None for p in ho.critic.parameters())

    check_critics_step(ho, case, teacher, student)


@pytest.mark.parametrize("case", cases("ifvd_total"))
def test_total_ifvd(case: Case) -> None:
    """IFVD's whole step, each of its four terms apart too, then the critic's with a weight of its own."""
    args = case.args
    inputs = [case.input(name, grad=True) for name in ("logits_S", "logits_S_aux", "feat_S")]
    student = SegOutput(inputs[0], aux=inputs[1], taps={"psp": inputs[2]})
    teacher = SegOutput(case.input("logits_T"), taps={"psp": case.input("feat_T")})
    target, classes = case.input("labels"), inputs[0].shape[1]

    ho = holistic(classes, convention="ifvd", adversary=args["adv_loss_type"], critic_weight=args["lambda_d"])
    load(ho.critic, case)
    terms = {
        "G_dsn": CrossEntropy(weight=1)(student, teacher, target),
        "G_kd_weighted": args["lambda_kd"] * PixelWise(weight=1, convention="ifvd")(student, teacher, target),
        "G_adv_weighted": args["lambda_adv"] * ho(student, teacher, target),
        "G_ifv_weighted": args["lambda_ifv"] * IntraClassVariation(weight=1)(student, teacher, target),
    }
    for name, value in terms.items():
        case.check(value, name)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    case.check(total, "loss_G_total")
    for tensor, name in zip(inputs, ("logits_S", "logits_S_aux", "feat_S"), strict=True):
        case.check_grad(tensor, name, loss="loss_G_total")

    check_critics_step(ho, case, teacher, student)


def test_spectral_conv_has_norm_one() -> None:
    """After enough power steps the weight in use is the weight over its largest singular value."""
    torch.manual_seed(0)
    conv = SpectralConv(3, 8).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for _ in range(1000):
        scores = conv(x)
    weight = conv.weight / torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    expected = F.conv2d(x, weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-9)


def maps(seed: int, cells: int = 65) -> tuple[SegOutput, SegOutput]:
    """A student's and a teacher's logits of two images, three classes."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(SegOutput(torch.randn(2, 3, cells, cells, generator=generator)) for _ in range(2))


def test_gradcheck() -> None:
    """The student's gradient is that of the value, through the enlarging; from the same u at every call."""
    torch.manual_seed(0)
    term = holistic(2)
    critic = term.critic

    def value_of(logits: torch.Tensor) -> torch.Tensor:
        term.critic = copy.deepcopy(critic)
        value: torch.Tensor = term(SegOutput(logits), None, TARGET)
        return value

    logits = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value_of, logits, fast_mode=True)


def test_what_is_left_out_is_the_conventions() -> None:
    """CIRKD's critic is a hinge without penalty; written out and read back, a term is the same."""
    for fields, expected in (
        ({}, ("wgan-gp", 10.0)),
        ({"convention": "ifvd"}, ("wgan-gp", 10.0)),
        ({"convention": "cirkd"}, ("hinge", 0.0)),
        ({"adversary": "hinge"}, ("hinge", 0.0)),
        ({"gradient_penalty": 1.0}, ("wgan-gp", 1.0)),
    ):
        term = Holistic.model_validate({"weight": 1, **fields})
        assert (term.adversary, term.gradient_penalty) == expected
        assert Holistic.model_validate(term.model_dump()) == term


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"adversary": "hinge", "gradient_penalty": 10}, "hinge has no penalty: leave gradient_penalty out"),
        ({"convention": "cirkd", "gradient_penalty": 1}, "hinge has no penalty: leave gradient_penalty out"),
        ({"convention": "cirkd", "adversary": "wgan-gp"}, "cirkd is a hinge: leave adversary out"),
    ],
)
def test_a_field_that_does_nothing_is_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Holistic.model_validate({"weight": 1, **fields})


def test_scale_is_skds_third_preprocessing() -> None:
    critic = Critic(3, "scale", 0.125)
    values = torch.tensor([0.0, 127.5, 255.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(critic.preprocessing(values).flatten(), torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("fields", [{}, {"convention": "ifvd"}, {"convention": "cirkd"}])
def test_the_critic_learns(fields: dict[str, Any]) -> None:
    """Some steps on two fixed maps: the critic's own loss falls, and no gradient is left anywhere."""
    torch.manual_seed(0)
    term = HolisticLoss(Holistic(weight=1, critic_steps=4, critic_weight=1.0, **fields), 3)
    student, teacher = maps(0)
    student.logits.requires_grad_(True)
    teacher.logits.add_(1.0).requires_grad_(True)
    alpha = torch.full((2,), 0.5)
    for _ in range(30):  # the power steps settle, or the scale they change would hide what is learnt
        term.critic(student.logits)
    before = term.critic_loss(teacher.logits, student.logits, alpha).item()
    for _ in range(2):
        term.after_step(student, teacher, TARGET, 0.0)
    assert term.critic_loss(teacher.logits, student.logits, alpha).item() < before
    assert student.logits.grad is None
    assert teacher.logits.grad is None
    assert all(p.grad is None and not p.requires_grad for p in term.critic.parameters())
    assert term.trained_with_student() == []


@pytest.mark.parametrize(("convention", "kind"), [("skd", "SGD"), ("ifvd", "Adam"), ("cirkd", "Adam")])
def test_critic_rate(convention: Any, kind: str) -> None:
    """The convention's optimiser, at a rate that falls to 0."""
    term = HolisticLoss(Holistic(weight=1, convention=convention), 3)
    assert type(term.optimizer).__name__ == kind
    for progress, expected in [(0.0, 4e-4), (0.5, 4e-4 * 0.5**0.9), (1.0, 0.0)]:
        term.after_step(*maps(1), TARGET, progress)
        assert term.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("convention", ["skd", "ifvd"])
def test_resume_is_exact(convention: Any) -> None:
    """Momenta, u, running statistics and the coefficient's generator come back from a file."""
    first, second = (HolisticLoss(Holistic(weight=1, convention=convention), 3) for _ in range(2))
    first.after_step(*maps(0), TARGET, 0.0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for term in (first, second):
        term.after_step(*maps(1), TARGET, 0.1)
        term.after_step(*maps(2), TARGET, 0.2)
    for key, value in first.critic.state_dict().items():
        assert torch.equal(value, second.critic.state_dict()[key]), key
    assert torch.equal(first(*maps(3), TARGET), second(*maps(3), TARGET))


def test_small_maps_are_enlarged_once_said(caplog: pytest.LogCaptureFixture) -> None:
    """60 cells are too few for four halvings; the log says it once, and not where the maps suffice."""
    term = HolisticLoss(Holistic(weight=1), 3)
    with caplog.at_level(logging.INFO, logger="kdtune"):
        assert term.fit(maps(0, cells=64)[0].logits).shape == (2, 3, 64, 64)
        assert not caplog.records
        for _ in range(2):
            assert torch.isfinite(term(maps(0, cells=60)[0], None, TARGET))
    assert [record.getMessage() for record in caplog.records] == [
        "ho: maps of (60, 60) cells are enlarged to (65, 65) for the critic"
    ]


def test_builds_on_meta() -> None:
    """A study is checked by building it without memory."""
    with torch.device("meta"):
        term = HolisticLoss(Holistic(weight=1), 150)
    assert all(p.is_meta for p in term.parameters())


def test_the_order_of_the_images_is_nothing_to_the_critic() -> None:
    """What is drawn for each image is for the critic's own step."""
    logits = torch.randn(3, 5, 65, 65)
    values = []
    for maps in (logits, logits.flip(0)):
        torch.manual_seed(0)
        values.append(holistic(5)(SegOutput(maps), None, torch.zeros(3, 1, 1)))
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-7)
