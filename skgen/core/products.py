"""Matrix products in single precision, by the library that is fastest on this processor.

PyTorch leaves them to MKL, which uses half the width of the registers of AMD's processors. oneDNN,
which PyTorch has for convolutions, uses all of it and takes half the time since Zen 5; earlier ones
compute with half the width in any case.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def _onednn_is_faster() -> bool:
    features: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    of_amd, since_zen_5 = features.get("sse4a", False), features.get("avx_vnni", False)
    wide = features.get("avx512_f", False)
    return bool(of_amd and since_zen_5 and wide and torch.backends.mkldnn.is_available())


ONEDNN = _onednn_is_faster()
SMALL = 1_500_000  # multiplications, 8 more a number; with fewer, calls cost what they save


def product(a: Tensor, b: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Product of two matrices, perhaps plus a third, that autograd skips.

    Parameters
    ----------
    a : tensor of shape (n, k)
    b : tensor of shape (k, m)
    plus : tensor of shape (m,), (n, 1) or (n, m), optional
        Added to the product.
    out : tensor of shape (n, m), optional
        Memory that the result may be written to.

    Returns
    -------
    tensor of shape (n, m)
        ``out`` itself or a new tensor.
    """
    if _for_onednn(a, b):
        bias, rest = (None, plus) if plus is not None and plus.ndim == 2 else (plus, None)
        result = torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], "")
        return result if rest is None else result.add_(rest)
    return torch.mm(a, b, out=out) if plus is None else torch.addmm(plus, a, b, out=out)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product of two matrices to a third."""
    if _for_onednn(a, b):
        total.add_(product(a, b))
    else:
        total.addmm_(a, b)


def _for_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        ONEDNN
        and a.dtype == torch.float32
        and a.is_cpu
        and len(a) * b.shape[1] * (a.shape[1] + 8) > SMALL
        and not torch._C._are_functorch_transforms_active()  # oneDNN knows no derivatives
    )
