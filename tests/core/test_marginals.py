from functools import partial

import pytest
import torch
from scipy.stats import kstest
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from skgen.core.marginals import (
    PRECONDITIONERS,
    Chain,
    MarginalGaussianisation,
    Whitening,
    fit_preconditioner,
    shrinkage,
)


def rows(kind, n=400):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    x[:, 1] += 0.8 * x[:, 0]
    if kind == "skewed":
        return x.exp()
    if kind == "heavy":
        return x / torch.rand(n, 3, generator=generator, dtype=torch.float64)
    if kind == "ties":
        return (2 * x).round()
    if kind == "nearly constant":
        return torch.where(x.abs() < 2.8, 0.0, x)
    if kind == "units":
        return x * torch.tensor([1e-9, 1.0, 1e9]) + torch.tensor([0.0, -50.0, 1e10])
    return x


KINDS = ["normal", "skewed", "heavy", "ties", "nearly constant", "units"]
BIJECTIONS = {
    "whitening": lambda x: Whitening(x, 1e-6),
    "marginals": MarginalGaussianisation,
    "standardize": lambda x: fit_preconditioner(x, "standardize", 1e-6),
    "gaussianize": lambda x: fit_preconditioner(x, "gaussianize", 1e-6),
}
every_case = pytest.mark.parametrize("kind", KINDS)
every_bijection = pytest.mark.parametrize("fit", BIJECTIONS.values(), ids=BIJECTIONS)


@every_case
@every_bijection
def test_inverse_inside_and_outside_the_data(fit, kind):
    x = rows(kind)
    bijection = fit(x)
    wide = torch.cat([x, x.mean(0) + 5 * (x - x.mean(0))])
    z, _ = bijection(wide)
    assert z.isfinite().all()
    assert_close(
        (bijection.inverse(z) - wide) / x.std(0), torch.zeros_like(wide), atol=1e-6, rtol=0
    )


@every_case
@every_bijection
def test_log_determinant_against_autodiff(fit, kind):
    x = rows(kind)
    bijection = fit(x)
    # Away from the data's own values: at a knot the curve's second derivative jumps.
    points = x[:20] + 1e-3 * x.std(0) * torch.linspace(1, 60, 20, dtype=x.dtype)[:, None]
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda v: bijection(v[None])[0][0], p) for p in points]
    )
    assert_close(bijection(points)[1], jacobian.slogdet().logabsdet, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "units"])
@pytest.mark.parametrize("name", ["standardize", "gaussianize"])
def test_preconditioned_rows_have_the_identity_covariance(name, kind):
    z, _ = fit_preconditioner(rows(kind), name, 0.0)(rows(kind))
    covariance = torch.cov(z.T, correction=0)
    assert_close(covariance, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "units"])
def test_marginals_become_normal(kind):
    z, _ = MarginalGaussianisation(rows(kind))(rows(kind))
    for column in z.T:
        assert kstest(column.numpy(), "norm").pvalue > 0.05


def test_heavy_tails_become_light():
    x = rows("heavy")
    x[0] = 1e8
    z, _ = MarginalGaussianisation(x)(x)
    assert z.abs().max() < 30


def test_order_of_values_is_kept():
    x = rows("heavy")
    grid = torch.linspace(-300, 300, 2001, dtype=torch.float64)[:, None].expand(-1, 3)
    assert (MarginalGaussianisation(x)(grid)[0].diff(dim=0) > 0).all()


def test_whitening_stretches_dependent_columns_boundedly():
    x = rows("normal")
    x[:, 2] = x[:, 0] + x[:, 1]
    z, log_det = Whitening(x, 1e-6)(x)
    assert z.isfinite().all() and log_det.isfinite().all()
    assert_close(Whitening(x, 1e-6).inverse(z), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", PRECONDITIONERS)
def test_dependent_columns_need_regularisation(kind):
    x = rows("normal")
    x[:, 2] = x[:, 0]
    with pytest.raises(ValueError, match=r"linearly dependent.* larger reg_covar than 0\.0,"):
        fit_preconditioner(x, kind, 0.0)
    x[:, 2] += 1e-6 * rows("heavy")[:, 0]
    assert fit_preconditioner(x, kind, 0.0)(x)[0].isfinite().all()


def test_whitening_changes_uncorrelated_axes_least():
    x = rows("normal")
    z, _ = Whitening(x, 0.0)(x)
    correlation = torch.corrcoef(torch.cat([x, z], dim=1).T)[:3, 3:]
    assert (correlation.diagonal() > 0.85).all()


def test_few_rows_are_shrunk_as_is_best_for_rows_left_out():
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = draw(25, 2) @ draw(2, 12) + 0.5 * draw(25, 12)
    z = (x - x.mean(0)) / x.std(0, correction=0)

    def log_likelihood(share):
        total = 0.0
        for fold in range(5):
            out = torch.arange(25) % 5 == fold
            covariance = (1 - share) * torch.cov(z[~out].T, correction=0) + share * torch.eye(12)
            normal = MultivariateNormal(z[~out].mean(0), covariance)
            total += float(normal.log_prob(z[out]).sum())
        return total

    share = shrinkage(z)
    assert 0.001 < share < 0.9
    assert log_likelihood(share) > max(log_likelihood(share / 2), log_likelihood(share * 1.8))
    assert shrinkage(z.repeat_interleave(3, 0)) == pytest.approx(share)
    covariance = torch.cov(z.T, correction=0)
    shrunk = MultivariateNormal(torch.zeros(12), (1 - share) * covariance + share * torch.eye(12))
    found, log_det = Whitening(x, 0.0)(x)
    normal = MultivariateNormal(torch.zeros(12).double(), torch.eye(12).double())
    units = x.std(0, correction=0).log().sum()
    assert_close(normal.log_prob(found) + log_det, shrunk.log_prob(z) - units)
    white = torch.randn(600, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert shrinkage(white[:20]) > 0.5
    assert shrinkage(white[:599]) > 0.5
    assert shrinkage(white) == 0  # 15 rows a column


@every_bijection
def test_follows_the_dtype(fit):
    x = rows("skewed")
    bijection = fit(x)
    (z, log_det), (z32, log_det32) = bijection(x), bijection(x.float())
    assert z32.dtype == log_det32.dtype == bijection.inverse(z32).dtype == torch.float32
    assert_close(z32.double(), z, atol=1e-3, rtol=1e-3)
    assert_close(log_det32.double(), log_det, atol=1e-3, rtol=1e-3)


def test_chain_adds_log_determinants():
    x = rows("normal")
    first, second = Whitening(x, 0.1), Whitening(3 * x, 0.2)
    z, log_det = Chain(first, second)(x)
    middle, part = first(x)
    assert_close(z, second(middle)[0])
    assert_close(log_det, part + second(middle)[1])
