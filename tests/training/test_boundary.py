import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from training.boundary import boundary_distance, scaled_logits, weight_distances


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gives, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def longhand(weight: Tensor) -> Tensor:
    """The (C, C, D) difference, with ones on the diagonal."""
    weight = weight.double()
    return (weight[:, None] - weight[None]).norm(dim=2) + torch.eye(len(weight), dtype=torch.float64)


def test_head_distances_equal_the_longhand_difference() -> None:
    weight = random(20, 64)
    torch.testing.assert_close(weight_distances(weight).double(), longhand(weight), rtol=1e-5, atol=1e-5)


def test_rows_far_from_the_origin_but_near_each_other_keep_their_distances() -> None:
    weight = random(20, 64) + 1000
    torch.testing.assert_close(weight_distances(weight).double(), longhand(weight), rtol=1e-3, atol=0)


def test_a_thousand_classes_of_2048_features_need_no_tensor_larger_than_the_head() -> None:
    weight = random(1000, 2048).requires_grad_()
    with LargestTensor() as largest:
        weight_distances(weight).sum().backward()
    assert 1000 * 1000 <= largest.elements <= 1000 * 2048


def test_equal_rows_of_the_head_have_gradient_zero_and_not_nan() -> None:
    weight = torch.ones(3, 4, requires_grad=True)
    distances = weight_distances(weight)
    distances.sum().backward()
    assert torch.isfinite(distances).all()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 4))


def test_head_distances_stay_in_float32_under_autocast() -> None:
    weight = random(10, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = weight_distances(weight)
    assert torch.equal(inside, weight_distances(weight))


def test_the_boundary_distance_is_the_mean_over_all_classes_of_the_gap_in_units_of_the_head() -> None:
    logits, weight = random(6, 5, seed=1), random(5, 8)
    distances = longhand(weight)
    expected = []
    for row in logits.double():
        k = int(row.argmax())
        expected.append(sum((row[k] - row[i]) / distances[k, i] for i in range(5)) / 5)
    torch.testing.assert_close(boundary_distance(logits, weight_distances(weight)).double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_the_boundary_distance_is_the_euclidean_distance_of_a_feature_to_its_boundaries() -> None:
    weight, bias, feature = random(3, 2, dtype=torch.float64), random(3, seed=2, dtype=torch.float64), random(2, seed=3, dtype=torch.float64)
    logits = weight @ feature + bias
    k = int(logits.argmax())
    found = []
    for i in set(range(3)) - {k}:
        normal = weight[k] - weight[i]
        nearest = feature - (normal @ feature + bias[k] - bias[i]) / (normal @ normal) * normal
        torch.testing.assert_close((weight @ nearest + bias)[k], (weight @ nearest + bias)[i])
        found.append((feature - nearest).norm())
    torch.testing.assert_close(boundary_distance(logits[None], weight_distances(weight)), sum(found)[None] / 3)  # type: ignore[index]


def test_scaled_logits_have_the_right_gradient_in_logits_and_head() -> None:
    logits, weight = random(4, 5, seed=1, dtype=torch.float64).requires_grad_(), random(5, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: scaled_logits(f, weight_distances(w)), (logits, weight))


def test_scaled_logits_ignore_the_scale_and_shift_of_the_logits() -> None:
    logits, distances = random(4, 5, seed=1), weight_distances(random(5, 8))
    expected = scaled_logits(logits, distances)
    torch.testing.assert_close(scaled_logits(7 * logits + 3, distances), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_equal_logits_become_the_uniform_distribution(value: float) -> None:
    scaled = scaled_logits(torch.full((2, 4), value), weight_distances(random(4, 8)))
    assert torch.equal(scaled.softmax(dim=1), torch.full((2, 4), 0.25))


def test_a_row_of_equal_logits_does_not_change_its_neighbours() -> None:
    logits, distances = random(3, 5, seed=1), weight_distances(random(5, 8))
    expected = scaled_logits(logits, distances)
    logits[1] = 2
    assert torch.equal(scaled_logits(logits, distances)[[0, 2]], expected[[0, 2]])
