"""Simple densities given conditions, and the flow's use of conditions."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from skgen.core.conditional import fit_categories, fit_residual
from skgen.core.draws import stratified
from skgen.core.flow import Flow
from skgen.core.gaussian import StandardNormal, fit_gaussian
from skgen.core.networks import velocity_network
from skgen.core.paths import LinearPath
from skgen.core.times import TrainingTimes


def rows_in_classes(n=300, n_classes=3):
    """Features, and conditions: one column for each class, and ones."""
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(n) % n_classes
    z = torch.randn(n, 2, dtype=torch.float64, generator=rng)
    x = (
        z * (1 + label[:, None]) @ torch.tensor([[1.0, 0.4], [0.0, 0.7]]).double()
        + 3 * label[:, None]
    )
    one_hot = torch.nn.functional.one_hot(label, n_classes).double()
    return x, torch.cat([one_hot, torch.ones(n, 1).double()], dim=1), label


def test_gaussians_of_categories_against_their_formula():
    x, conditions, label = rows_in_classes()
    density = fit_categories(x, conditions, StandardNormal(2), ridge=0.0)
    means = torch.stack([x[label == k].mean(0) for k in range(3)])
    residual = x - means[label]
    pooled = residual.T @ residual / len(x)
    for k in range(3):
        own = residual[label == k]
        covariance = (own.T @ own + 2 * pooled) / (len(own) + 2)
        expected = MultivariateNormal(means[k], covariance).log_prob(x)
        given = conditions[label == k][:1].expand(len(x), -1)
        assert torch.allclose(density.log_prob(torch.cat([x, given], 1)), expected, atol=1e-9)
        drawn = density.sample(
            20_000, torch.Generator().manual_seed(1), given[:1].expand(20_000, -1)
        )
        assert torch.allclose(drawn.mean(0), means[k], atol=0.1)
        assert torch.allclose(drawn.T.cov(), covariance, rtol=0.1, atol=0.1)
    unknown = torch.cat([x, torch.zeros_like(conditions)], 1)
    assert torch.allclose(density.log_prob(unknown), StandardNormal(2).log_prob(x))


def test_regression_on_a_number():
    rng = torch.Generator().manual_seed(0)
    number = torch.randn(500, 1, dtype=torch.float64, generator=rng)
    x = 2 * number + 0.5 * torch.randn(500, 1, dtype=torch.float64, generator=rng) + 1
    conditions = torch.cat([number, torch.ones(500, 1)], dim=1)
    for density in (
        fit_categories(x, conditions, StandardNormal(1), ridge=0.0),
        fit_residual(x, conditions, lambda x: fit_gaussian(x, None, "full", 0.0)),
    ):
        at = torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
        expected = torch.distributions.Normal(2.0, 0.5).log_prob(torch.tensor(2.0))
        assert float(density.log_prob(at)) == pytest.approx(float(expected), abs=0.1)


def test_without_conditions_they_are_the_plain_densities():
    x, none = rows_in_classes()[0], torch.empty(300, 0)
    normal = StandardNormal(2)
    assert fit_categories(x, none, normal, 0.0) is normal
    plain = fit_gaussian(x, None, "full", 0.0)
    fitted = fit_residual(x, none, lambda x: fit_gaussian(x, None, "full", 0.0))
    assert torch.equal(fitted.log_prob(x), plain.log_prob(x))


def conditional_flow(n_conditions=4):
    rng = torch.Generator().manual_seed(0)
    network = velocity_network(2, (16, 16), "silu", LinearPath(), rng, n_conditions)
    for p in network.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=rng)
    return Flow(network, LinearPath(), 2, "rk4", 8, 0.0)


@pytest.mark.parametrize("sizes", [(16, 16), (16, 16, 16)])
def test_conditions_do_not_enter_the_divergence(sizes):
    rng = torch.Generator().manual_seed(0)
    network = velocity_network(2, sizes, "silu", LinearPath(), rng, 3)
    network.out.data.normal_(generator=rng)
    rows = torch.randn(5, 5, dtype=torch.float64, generator=rng)
    fields = network.field(torch.float64, divergence=True)(0.4, rows)

    def one(x, c):
        return network.field(torch.float64)(0.4, torch.cat([x, c])[None])[0]

    for row, (*found, total) in zip(rows, fields, strict=True):
        assert torch.allclose(torch.stack(found), one(row[:2], row[2:]))
        jacobian = torch.autograd.functional.jacobian(lambda x, c=row[2:]: one(x, c), row[:2])
        assert torch.allclose(total, jacobian.trace())


def test_averaged_targets_come_from_rows_with_the_same_conditions():
    flow, (x, conditions, label) = conditional_flow(), rows_in_classes(64)
    x, conditions = x.float(), conditions.float()
    rng = torch.Generator().manual_seed(0)
    times = TrainingTimes(LinearPath(), "velocity", flow.network.time_features, 1.5)
    times = times(stratified(len(x), 1, x, rng))
    x_t = times.alpha * x + times.sigma * torch.randn(x.shape, generator=rng)
    shown = conditions * (torch.arange(64) % 5 > 0)[:, None]
    found = flow._expected_origin(x, x_t, conditions, shown, times, 64)
    for i in range(32, 64):  # early positions get the mean of fewer rows
        same = (label == label[i]) | (shown[i, -1] == 0)
        squares = (x_t[i] - times.alpha[i] * x).square().sum(1) / times.sigma[i] ** 2
        weight = torch.where(same, -0.5 * squares, -torch.inf).softmax(0)
        if times.sigma[i] > 0.05:
            assert torch.allclose(found[i], weight @ x, atol=2e-2)


def test_guidance_extrapolates_from_unknown_to_known_conditions():
    flow, t = conditional_flow(), torch.tensor(0.6, dtype=torch.float64)
    rows = torch.randn(7, 6, dtype=torch.float64)
    unknown = torch.cat([rows[:, :2], torch.zeros(7, 4)], dim=1)
    known, none = flow.parts(t, rows), flow.parts(t, unknown)
    flow.guidance = 2.0
    guided = flow.given(rows[:, 2:]).parts(t, rows[:, :2])
    for found, a, b in zip(guided, known, none, strict=True):
        assert torch.allclose(found, 3 * a - 2 * b, atol=1e-5)  # single precision
    assert not torch.allclose(known.data, none.data)
    end = flow.transport(rows, to_data=True, guidance=2.0)
    assert not torch.allclose(end, flow.transport(rows, to_data=True), atol=1e-3)
