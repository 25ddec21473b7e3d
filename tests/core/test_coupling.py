import pytest
import torch

from skgen.core import coupling


def mapped_columns(d, n_couplings, n_groups=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mapped = coupling.mapped_columns(d, n_couplings, n_groups, generator)
    assert mapped.shape == (n_couplings, d)
    return mapped


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "d, n", [(1, 6), (2, 2), (2, 6), (3, 6), (5, 4), (6, 4), (7, 6), (20, 6), (50, 8), (3, 24)]
)
def test_halves_map_every_column_given_every_other(d, n, seed):
    mapped = mapped_columns(d, n, seed=seed)
    assert (mapped.sum(0) == (n // 2 if d > 1 else n)).all()
    assert (mapped.sum(1) - d / 2).abs().max() <= 0.5
    given = (~mapped[:, :, None] & mapped[:, None, :]).any(0)
    assert (given | torch.eye(d, dtype=torch.bool)).all()


def test_neighbours_are_in_different_halves():
    for d in (2, 5, 10):
        first, second = mapped_columns(d, 6)[:, d % 2 :].unflatten(1, (-1, 2)).unbind(2)
        assert (first != second).all()


def test_columns_beyond_the_patterns_share_them():
    mapped = mapped_columns(60, 6)
    assert (mapped.sum(0) == 3).all() and len(mapped.T.unique(dim=0)) == 20


@pytest.mark.parametrize("n_groups", [3, 4])
@pytest.mark.parametrize("d", [1, 3, 5, 10, 51])
def test_every_column_is_in_one_of_the_groups(d, n_groups):
    n = min(n_groups, d)
    mapped = mapped_columns(d, 3 * n + 1, n_groups)
    assert (mapped[:-1].unflatten(0, (3, n)).sum(1) == 1).all()
    sizes = mapped.sum(1)
    assert sizes.min() >= d // n and sizes.max() <= -(-d // n)


def test_groups_change_in_every_round_and_with_the_seed():
    first, second = mapped_columns(20, 6, 3).split(3)
    assert not first.equal(second)
    assert not first.equal(mapped_columns(20, 3, 3, seed=1))
