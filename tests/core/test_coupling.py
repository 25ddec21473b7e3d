import pytest
import torch

from skgen.core import coupling


def mapped_columns(d, n, seed=0):
    return coupling.mapped_columns(d, n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [2, 3, 5, 9, 10, 27, 51])
def test_every_three_couplings_map_every_column_once(d):
    mapped = mapped_columns(d, 9)
    n_groups = min(d, 3)
    assert mapped.shape == (9, d)
    assert (mapped[: 9 // n_groups * n_groups].unflatten(0, (-1, n_groups)).sum(1) == 1).all()
    sizes = mapped.sum(1)
    assert sizes.min() >= d // n_groups and sizes.max() <= -(-d // n_groups)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("d, n_couplings", [(2, 4), (3, 3), (9, 2), (10, 1), (27, 1)])
def test_every_column_is_mapped_given_every_other(d, n_couplings, seed):
    mapped = mapped_columns(d, 9, seed).int()
    given = mapped.T @ (1 - mapped)
    assert (given + 9 * torch.eye(d, dtype=torch.int)).min() == n_couplings


def test_one_column_is_always_mapped():
    assert mapped_columns(1, 4).all()


def test_groups_are_other_ones_with_another_seed():
    assert not mapped_columns(9, 9).equal(mapped_columns(9, 9, seed=1))


def test_couplings_beyond_nine_map_what_the_first_do():
    mapped = mapped_columns(20, 15)
    assert mapped[9:].equal(mapped[:6])
