import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from training.boundary import scaled_logits, weight_distances
from training.losses import LOSSES, cross_entropy, elogitnorm, logitnorm


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def head_of(classes: int, features: int) -> nn.Linear:
    head = nn.Linear(features, classes)
    with torch.no_grad():
        head.weight.copy_(random(classes, features, seed=4))
        head.bias.copy_(random(classes, seed=5))
    return head


def authors(logits: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """ELogitNorm as published, in float64 and by hand: every pair of rows, the predicted class, the mean over all C."""
    total = torch.zeros((), dtype=torch.float64)
    for f, label in zip(logits, labels, strict=True):
        k = int(f.argmax())
        scale = torch.zeros((), dtype=torch.float64)
        for i in range(len(f)):
            if i != k:
                scale = scale + (f[k] - f[i]).abs() / (weight[k] - weight[i]).square().sum().sqrt()
        scale = scale / len(f)
        total = total - torch.log_softmax(f / scale, dim=0)[label]
    return total / len(logits)


LABELS = torch.tensor([0, 3, 2, 6, 3, 1, 5, 4])


def test_elogitnorm_equals_the_longhand_float64_loss() -> None:
    logits, head = random(8, 7), head_of(7, 16)
    expected = authors(logits.double(), head.weight.double(), LABELS)
    torch.testing.assert_close(elogitnorm(logits, head, LABELS).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_elogitnorm_equals_the_longhand_float64_gradient_in_features_weights_and_bias() -> None:
    features, head = random(8, 16).requires_grad_(), head_of(7, 16)
    elogitnorm(head(features), head, LABELS).backward()
    z, w, b = (tensor.detach().double().requires_grad_() for tensor in (features, head.weight, head.bias))
    authors(z @ w.T + b, w, LABELS).backward()
    for found, expected in ((features.grad, z.grad), (head.weight.grad, w.grad), (head.bias.grad, b.grad)):
        assert found is not None
        assert expected is not None
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_elogitnorm_uses_the_predicted_class_and_not_the_label() -> None:
    logits, head = random(1, 7), head_of(7, 16)
    differences = [elogitnorm(logits, head, torch.tensor([label])) for label in (0, 1)]
    k = int(logits.argmax())
    scale = sum((logits[0, k] - logits[0, i]) / (head.weight[k] - head.weight[i]).norm() for i in range(7) if i != k) / 7
    torch.testing.assert_close(differences[0] - differences[1], (logits[0, 1] - logits[0, 0]) / scale, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 1000.0])
def test_elogitnorm_does_not_see_the_scale_of_the_features(factor: float) -> None:
    features, head = random(8, 16), head_of(7, 16)
    with torch.no_grad():
        head.bias.zero_()
    torch.testing.assert_close(elogitnorm(head(factor * features), head, LABELS), elogitnorm(head(features), head, LABELS), rtol=1e-4, atol=1e-5)


def test_elogitnorm_does_see_the_scale_of_the_head() -> None:
    features, head = random(8, 16), head_of(7, 16)
    small = elogitnorm(head(features), head, LABELS)
    with torch.no_grad():
        head.weight.mul_(3)
        head.bias.mul_(3)
    assert (elogitnorm(head(features), head, LABELS) - small).abs() > 0.1


@pytest.mark.parametrize("loss", LOSSES)
def test_a_constant_on_all_logits_changes_only_logitnorm(loss: str) -> None:
    logits, head = random(8, 7), head_of(7, 16)
    same = torch.allclose(LOSSES[loss](logits + 5, head, LABELS), LOSSES[loss](logits, head, LABELS), rtol=1e-4, atol=1e-5)
    assert same == (loss != "logitnorm")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_equal_logits_cost_log_c_and_have_a_finite_gradient(loss: str, value: float) -> None:
    logits, head = torch.full((8, 7), value, requires_grad=True), head_of(7, 16)
    cost = LOSSES[loss](logits, head, LABELS)
    cost.backward()
    torch.testing.assert_close(cost, torch.tensor(7.0).log())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert head.weight.grad is None or torch.isfinite(head.weight.grad).all()


def test_equal_rows_of_the_head_have_a_finite_elogitnorm_gradient() -> None:
    features, head = random(8, 16).requires_grad_(), head_of(7, 16)
    with torch.no_grad():
        head.weight[1] = head.weight[0]
        head.bias[1] = head.bias[0]
    elogitnorm(head(features), head, LABELS).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert head.weight.grad is not None
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_computed_in_float32_under_autocast(loss: str) -> None:
    logits, head = random(8, 7).bfloat16(), head_of(7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[loss](logits, head, LABELS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, LOSSES[loss](logits.float(), head, LABELS))


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_label() -> None:
    logits = random(8, 7)
    expected = -logits.double().softmax(dim=1)[torch.arange(8), LABELS].log().mean()
    torch.testing.assert_close(cross_entropy(logits, head_of(7, 16), LABELS).double(), expected)


def test_logitnorm_divides_by_004_times_the_norm() -> None:
    logits = random(8, 7)
    expected = functional.cross_entropy(logits / (0.04 * logits.norm(dim=1, keepdim=True)), LABELS)
    torch.testing.assert_close(logitnorm(logits, head_of(7, 16), LABELS), expected)


def test_elogitnorm_of_two_classes_has_no_gradient_in_the_features_which_is_why_it_is_refused() -> None:
    features, head = random(8, 16).requires_grad_(), head_of(2, 16)
    elogitnorm(head(features), head, LABELS % 2).backward()
    assert features.grad is not None
    assert features.grad.abs().max() < 1e-6


@pytest.mark.parametrize("classes", [3, 5, 10])
def test_probabilities_of_elogitnorm_are_bounded_by_how_far_apart_the_rows_of_the_head_lie(classes: int) -> None:
    head = head_of(classes, 16)
    distances = weight_distances(head.weight.detach())
    bound = 1 / (1 + (classes - 1) * torch.exp(-classes / (classes - 1) * distances.max()))
    probabilities = scaled_logits(head(1000 * random(5000, 16)), distances).softmax(dim=1)
    assert probabilities.max() <= bound
