import pytest
import torch
from torch.testing import assert_close

from skgen.core.divergence import exact_divergence


@pytest.mark.parametrize("d", [1, 2, 5])
def test_trace_of_the_jacobian(d):
    matrix = torch.randn(d, d, dtype=torch.float64)
    x = torch.randn(7, d, dtype=torch.float64)

    def field(x):
        return torch.sin(x @ matrix) * x

    value, divergence = exact_divergence(field, x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(row[None])[0]))(x)
    assert_close(value, field(x))
    assert_close(divergence, jacobians.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12, atol=1e-12)


def test_linear_field():
    matrix = torch.tensor([[1.0, 5.0], [7.0, -3.0]])
    _, divergence = exact_divergence(lambda x: x @ matrix, torch.randn(4, 2))
    assert_close(divergence, torch.full((4,), -2.0))
