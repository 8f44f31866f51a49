"""Dropout on a CPU: the probability asked for, an unbiased mean, the same mask backwards, the seed's own numbers."""

from __future__ import annotations

import pytest
import torch

from bertnli.model.dropout import Dropout, keep


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.2, 0.999])
def test_keeps_what_it_is_asked_to(probability: float) -> None:
    torch.manual_seed(0)
    mask, scale = keep([400, 1000], probability, torch.float32)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert 1 - mask.mean().item() == pytest.approx(probability, abs=4 * deviation)
    assert scale == pytest.approx(1 / (1 - probability), rel=0.01)
    for axis in (0, 1):  # no row and no column is drawn otherwise
        means = mask.mean(axis)
        assert means.std().item() == pytest.approx((probability * (1 - probability) / mask.shape[axis]) ** 0.5, rel=0.2)
    assert abs(torch.corrcoef(torch.stack((mask.ravel()[1:], mask.ravel()[:-1])))[0, 1].item()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_stays_is_scaled_and_the_gradient_goes_the_same_way(dtype: torch.dtype) -> None:
    x = torch.randn(7, 301).to(dtype).requires_grad_()
    y = Dropout(0.25)(x)
    y.backward(torch.ones_like(y))
    stays = x.grad != 0
    assert y.dtype == x.grad.dtype == dtype and 0.6 < stays.float().mean() < 0.9
    sent = x.grad[stays].float()
    torch.testing.assert_close(sent, torch.full_like(sent, 1 / 0.75), rtol=5e-3, atol=0)
    torch.testing.assert_close(y.float(), torch.where(stays, x.float() / 0.75, 0.0), rtol=1e-2, atol=0)


def test_the_seed_decides() -> None:
    x = torch.ones(50, 50)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append((Dropout(0.5)(x), Dropout(0.5)(x)))
    (one, then), (again, then_again), (other, _) = drawn
    assert torch.equal(one, again) and torch.equal(then, then_again)
    assert not torch.equal(one, then) and not torch.equal(one, other)


def test_off_outside_training_and_at_zero() -> None:
    x = torch.randn(5, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x or torch.equal(Dropout(0.0)(x), x)
