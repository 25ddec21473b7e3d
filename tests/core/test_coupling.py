import pytest
import torch

from skgen.core.coupling import column_orders


def roles(d, n, seed=0):
    """Whether couplings keep columns, of shape (n, d)."""
    orders = column_orders(d, n, torch.Generator().manual_seed(seed))
    assert len(orders) == n
    kept = torch.zeros(n, d, dtype=torch.bool)
    for k, order in enumerate(orders):
        assert order.sort().values.equal(torch.arange(d))
        kept[k, order[: d // 2] if k % 2 == 0 else order[d // 2 :]] = True
    return kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "d, n", [(1, 6), (2, 2), (2, 6), (3, 6), (5, 4), (6, 4), (7, 6), (20, 6), (50, 8), (3, 24)]
)
def test_every_column_is_mapped_given_every_other(d, n, seed):
    kept = roles(d, n, seed)
    assert (kept.sum(0) == n // 2).all()
    given = (kept[:, :, None] & ~kept[:, None, :]).any(0)
    assert (given | torch.eye(d, dtype=torch.bool)).all()


def test_neighbours_take_turns():
    for d in (2, 5, 10):
        first, second = roles(d, 6)[:, d % 2 :].unflatten(1, (-1, 2)).unbind(2)
        assert (first != second).all()


def test_columns_beyond_the_patterns_share_them():
    kept = roles(60, 6)
    assert (kept.sum(0) == 3).all() and len(kept.T.unique(dim=0)) == 20


def test_two_columns_stay_where_they_are():
    orders = column_orders(2, 5, torch.Generator().manual_seed(0))
    assert torch.stack(orders).equal(torch.arange(2).expand(5, 2))
