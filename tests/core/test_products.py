import pytest
import torch
from torch.testing import assert_close

from skgen.core import products
from skgen.core.products import SMALL, add_product, product

SHAPES = [(3, 4, 5), (600, 40, 90), (600, 1, 1200), (1, 900, 1000)]


@pytest.fixture(params=[False, True], autouse=True)
def onednn(request, monkeypatch):
    """Products with and without oneDNN, whichever this processor would take."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch is without oneDNN")
    monkeypatch.setattr(products, "ONEDNN", request.param)


@pytest.mark.parametrize(
    "of_amd, avx_vnni, faster", [(True, True, True), (True, False, False), (False, True, False)]
)
def test_onednn_where_registers_are_wider_than_those_mkl_uses(
    monkeypatch, of_amd, avx_vnni, faster
):
    found = {"avx512_f": True, "sse4a": of_amd, "avx_vnni": avx_vnni}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert products._onednn_is_faster() == (faster and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_product_is_that_of_matrices(dtype, shape, transposed):
    n, k, m = shape
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*s, generator=generator, dtype=dtype) for s in ((n, k), (k, m)))
    if transposed:
        a, b = a.T.contiguous().T, b.T.contiguous().T
    wanted = (a.double() @ b.double()).to(dtype)
    assert_close(product(a, b), wanted, rtol=1e-4, atol=1e-3)
    for plus in (torch.randn(m, dtype=dtype), torch.randn(n, 2 * m, dtype=dtype)[:, m:]):
        before = plus.clone()
        assert_close(product(a, b, plus), wanted + plus, rtol=1e-4, atol=1e-3)
        assert torch.equal(plus, before)
    space = torch.empty(n, m, dtype=dtype)
    assert_close(product(a, b, out=space), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_add_product(shape):
    n, k, m = shape
    a, b, total = torch.randn(n, k), torch.randn(k, m), torch.randn(n, 2 * m)[:, m:]
    wanted = total + a @ b
    add_product(total, a, b)
    assert_close(total, wanted, rtol=1e-4, atol=1e-3)


def test_product_in_forward_mode():
    a, tangent, b = torch.randn(1000, 40), torch.randn(1000, 40), torch.randn(40, 50)
    assert SMALL < 1000 * 40 * 50
    value, derivative = torch.func.jvp(lambda a: product(a, b), (a,), (tangent,))
    assert_close(value, a @ b, rtol=1e-4, atol=1e-4)
    assert_close(derivative, tangent @ b, rtol=1e-4, atol=1e-4)
