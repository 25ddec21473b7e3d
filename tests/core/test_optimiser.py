import pytest
import torch
from torch import nn
from torch.testing import assert_close

from skgen.core.optimiser import (
    COEFFICIENTS,
    LARGEST_SIDE,
    FlatParameters,
    Optimiser,
    nearly_orthogonal,
)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_flat_parameters_are_views():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    x = torch.randn(5, 3)
    before = model(x).detach()
    flat = FlatParameters(model)
    assert flat.values.shape == (11,) and torch.equal(model(x), before)
    model(x).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.equal(flat.gradient, expected) and expected.abs().sum() > 0
    flat.values.zero_()
    assert (model(x) == 0).all()


class Matrices(nn.Module):
    """Matrices of three shapes, one too large, and a vector."""

    def __init__(self):
        super().__init__()
        shapes = [(4, 3), (5,), (2, 6), (4, 3), (LARGEST_SIDE + 1, LARGEST_SIDE + 1)]
        self.parts = nn.ParameterList([nn.Parameter(random(*shape)) for shape in shapes])

    def matrices(self):
        return [p for p in self.parts if p.ndim == 2]


def test_stacks_are_views_of_matrices_of_one_shape():
    model = Matrices()
    before = [p.detach().clone() for p in model.parts]
    flat = FlatParameters(model, model.matrices())
    assert [tuple(values.shape) for values, _ in flat.stacks] == [(2, 4, 3), (1, 2, 6)]
    assert len(flat.values[flat.rest]) == 5 + (LARGEST_SIDE + 1) ** 2
    assert all(torch.equal(p, old) for p, old in zip(model.parts, before, strict=True))
    for values, gradient in flat.stacks:
        values.zero_()
        gradient.fill_(1.0)
    zero = [float(p.detach().abs().sum()) == 0 for p in model.parts]
    assert zero == [True, False, True, True, False]
    assert [float(p.grad.sum()) for p in model.parts] == [12, 0, 12, 12, 0]


@pytest.mark.parametrize("shape", [(3, 4, 7), (3, 7, 4), (2, 5, 5), (1, 1, 6)])
def test_iteration_changes_singular_values_only(shape):
    matrices = random(*shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    a, b, c = COEFFICIENTS
    for _ in range(3):
        s = a * s + b * s**3 + c * s**5
    expected = u @ torch.diag_embed(s) @ v
    assert_close(nearly_orthogonal(matrices), expected, rtol=1e-6, atol=1e-6)
    assert s.max() < 1.3 and (s.min() > 0.5 or shape[1] == shape[2])


def test_no_gradient_no_direction():
    assert torch.equal(nearly_orthogonal(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_steps_are_those_of_the_optimisers_of_torch():
    """AdamW to rounding, the first step of Muon up to the accuracy of its iteration."""
    model, peer = Matrices(), Matrices()
    vector = nn.ParameterList([p for p in peer.parts if p.ndim == 1 or len(p) > LARGEST_SIDE])
    adamw = torch.optim.AdamW(vector.parameters(), lr=0.1, weight_decay=0.2)
    flat = FlatParameters(model, model.matrices())
    optimiser = Optimiser(flat, weight_decay=0.2)
    for k in range(3):
        gradients = [random(*p.shape, seed=k) for p in model.parts]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        for p, other, gradient in zip(model.parts, peer.parts, gradients, strict=True):
            p.grad.copy_(gradient)
            other.grad = gradient / norm
        if k == 0:
            first = [(p.detach().clone(), g) for p, g in zip(model.parts, gradients, strict=True)]
        optimiser.step(0.1)
        adamw.step()
        if k == 0:
            for p, (before, gradient) in zip(model.parts, first, strict=True):
                if p.ndim == 2 and len(p) <= LARGEST_SIDE:
                    direction = nearly_orthogonal(gradient[None])[0]
                    length = 0.2 * 0.1 * max(p.shape) ** 0.5
                    assert_close(p.detach(), 0.98 * before - length * direction)
    for p, other in zip(model.parts, peer.parts, strict=True):
        if p.ndim == 1 or len(p) > LARGEST_SIDE:
            assert_close(p.detach(), other.detach())


def test_finds_the_bottom_of_a_bowl():
    """A thousand times as steep in some directions as in others."""
    steep, start = torch.logspace(0, 3, 8), random(8, 8)
    model = nn.ParameterList([nn.Parameter(start.clone())])
    flat = FlatParameters(model, list(model))
    optimiser, rotation = Optimiser(flat, 0.0), torch.linalg.qr(random(8, 8, seed=1)).Q
    hessian = rotation.T @ (steep[:, None] * rotation)
    for k in range(300):
        flat.gradient.copy_((hessian @ model[0].detach()).flatten())
        optimiser.step(0.2 * (1 - k / 300))
    assert model[0].detach().abs().max() < 0.01 * start.abs().max()
