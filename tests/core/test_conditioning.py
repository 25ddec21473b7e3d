"""Conditionals of a Gaussian mixture against grids and closed forms; the independence sampler."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.integrate import trapezoid
from scipy.stats import kstest, multivariate_normal

from skgen.core.conditioning import ConditionalMixture, GaussianMixture, last_of_chain

WEIGHTS = np.array([0.5, 0.3, 0.2])
rng = np.random.RandomState(0)
MEANS = 2 * rng.normal(size=(3, 4))
FACTORS = rng.normal(size=(3, 4, 4)) + np.eye(4)
MIXTURE = GaussianMixture(*map(torch.tensor, (np.log(WEIGHTS), MEANS, FACTORS)))
KNOWN = torch.tensor([True, False, True, False])
X = torch.tensor(rng.normal(size=(5, 4)))


def joint(x):
    parts = [multivariate_normal(m, f @ f.T).pdf(x) for m, f in zip(MEANS, FACTORS, strict=True)]
    return np.average(parts, axis=0, weights=WEIGHTS)


def draw(n_draws, known=KNOWN, inflation=1.0, x=X):
    generator = torch.Generator().manual_seed(0)
    kind = {"generator": generator, "dtype": torch.float64}
    uniforms = torch.rand(len(x), n_draws, **kind)
    noise = torch.randn(len(x), n_draws, int((~known).sum()), **kind)
    return ConditionalMixture(MIXTURE, known, inflation).sample(x, uniforms, noise)


def test_log_density_is_joint_less_known():
    draws, log_prob = draw(6)
    rows = X[:, None].repeat(1, 6, 1)
    rows[..., ~KNOWN] = draws
    k = KNOWN.numpy()
    covariances = FACTORS @ FACTORS.transpose(0, 2, 1)
    parts = [
        multivariate_normal(m[k], c[np.ix_(k, k)]).pdf(X[:, KNOWN].numpy())
        for m, c in zip(MEANS, covariances, strict=True)
    ]
    of_known = np.average(parts, axis=0, weights=WEIGHTS)
    expected = np.log(joint(rows.numpy())) - np.log(of_known)[:, None]
    assert_allclose(log_prob.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("column", range(4))
def test_draws_follow_the_conditional_on_a_grid(column):
    known = torch.arange(4) != column
    row = X[:1]
    draws, _ = draw(4000, known, x=row)
    grid = np.linspace(-60, 60, 20_001)
    rows = np.repeat(row.numpy(), len(grid), axis=0)
    rows[:, column] = grid
    mass = np.cumsum(joint(rows))
    mass /= mass[-1]
    assert kstest(draws.numpy().ravel(), lambda x: np.interp(x, grid, mass)).pvalue > 1e-3


def test_unknown_columns_have_no_influence():
    other = torch.where(KNOWN, X, 1e6)
    for found, expected in zip(draw(3, x=other), draw(3), strict=True):
        assert torch.equal(found, expected)


def test_inflated_density_is_normalised_and_wider():
    known = torch.tensor([True, True, True, False])
    draws, log_prob = draw(20_000, known, inflation=1.5, x=X[:1])
    order = draws.ravel().argsort()
    mass = trapezoid(log_prob.exp().ravel()[order], draws.ravel()[order])
    assert mass == pytest.approx(1, abs=0.01)
    assert draws.std() > draw(20_000, known, x=X[:1])[0].std()


def test_mapped():
    matrix, shift = torch.tensor(rng.normal(size=(4, 4))), torch.tensor(rng.normal(size=4))
    mapped = MIXTURE.mapped(matrix, shift)
    assert_allclose(mapped.means[1], matrix @ MIXTURE.means[1] + shift)
    covariance = matrix @ MIXTURE.factors[1] @ MIXTURE.factors[1].T @ matrix.T
    assert_allclose(mapped.factors[1] @ mapped.factors[1].T, covariance)


def test_chain_reaches_the_target_where_proposals_are_bounded():
    """Normal target, proposals of 1.5 times its spread, the last of 20: no trace of the start."""
    draws = 1.5 * rng.normal(size=(4000, 20))
    log_weights = torch.tensor(-0.5 * draws**2 + 0.5 * (draws / 1.5) ** 2)
    chosen = last_of_chain(log_weights, torch.tensor(rng.uniform(size=draws.shape)))
    assert kstest(draws[np.arange(4000), chosen], "norm").pvalue > 1e-3
    assert kstest(draws[:, 0], "norm").pvalue < 1e-10


def test_chain_leaves_impossible_proposals_and_takes_none():
    log_weights = torch.tensor([[-np.inf, 0.0, -np.inf], [-np.inf] * 3])
    chosen = last_of_chain(log_weights, torch.full((2, 3), 0.999))
    assert chosen.tolist() == [1, 0]
