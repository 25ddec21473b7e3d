import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from skgen.core.divergence import (
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
    jacobian_product,
    transposed_jacobian_product,
)


@pytest.mark.parametrize("inference", [False, True])
def test_products_with_the_jacobian(inference):
    x, direction = torch.randn(2, 7, 3, dtype=torch.float64)
    jacobian = torch.stack([row.cos().diag() + row.outer(torch.ones(3)) for row in x])
    jacobian += x.sum(1)[:, None, None] * torch.eye(3)

    def field(x):
        return torch.sin(x) + x * x.sum(1, keepdim=True)

    def fields(x):
        return field(x), x.square().sum(1)

    with torch.inference_mode(inference):
        x, direction = x + 0, direction + 0
        value, product = jacobian_product(field, x, direction)
        back = transposed_jacobian_product(fields, x, (direction, torch.ones(7).double()))
    assert_close(value, field(x))
    assert_close(product, (jacobian @ direction[:, :, None])[:, :, 0])
    assert_close(back, (jacobian.mT @ direction[:, :, None])[:, :, 0] + 2 * x)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_trace_of_the_jacobian(d):
    matrix = torch.randn(d, d, dtype=torch.float64)
    x = torch.randn(7, d, dtype=torch.float64)

    def field(x):
        return torch.sin(x @ matrix) * x

    found = exact_divergence(field, x)
    value, divergence = found[:, :d], found[:, d]
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(row[None])[0]))(x)
    assert_close(value, field(x))
    assert_close(divergence, jacobians.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12, atol=1e-12)


def test_linear_field():
    matrix = torch.tensor([[1.0, 5.0], [7.0, -3.0]])
    found = exact_divergence(lambda x: x @ matrix, torch.randn(4, 2))
    assert_close(found[:, 2], torch.full((4,), -2.0))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased(kind):
    generator = torch.Generator().manual_seed(0)
    matrix, x = (torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (4, 6))

    def field(x):
        return torch.sin(x @ matrix) * x

    probes = draw_probes(kind, 4000, 4, generator)
    assert probes.mean().abs() < 0.05 and (probes.var() - 1).abs() < 0.05
    value, divergences = hutchinson_divergence(field, x, probes).split([4, 4000], dim=1)
    assert_close(value, field(x))
    error = (divergences.mean(1) - exact_divergence(field, x)[:, 4]) / (
        divergences.std(1) / 4000**0.5
    )
    assert error.abs().max() < 4


def test_signs_are_exact_where_the_jacobian_is_diagonal():
    x = torch.randn(5, 3, dtype=torch.float64)
    probes = draw_probes("rademacher", 2, 3, torch.Generator().manual_seed(0))
    found = hutchinson_divergence(lambda x: x**2, x, probes)
    assert_close(found[:, 3:], (2 * x).sum(1, keepdim=True).expand(5, 2))


def test_the_first_product_in_a_process_gives_no_warning():
    code = """
import warnings
import torch
from skgen.core.divergence import exact_divergence
warnings.simplefilter("error")
exact_divergence(torch.sin, torch.zeros(2, 1))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
