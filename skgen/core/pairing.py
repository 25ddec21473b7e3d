"""Which noise goes with which data."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def optimal_transport(noise: Tensor, x: Tensor, block_size: int = 128) -> Tensor:
    """Order of the noise rows that minimises the sum of squared distances to the rows of x.

    Exact within blocks of consecutive rows, as the cost of an assignment grows with the cube of
    their number. No row is left out or used twice.

    Parameters
    ----------
    noise, x : tensors of shape (n, d)
    block_size : int

    Returns
    -------
    tensor of int, shape (n,)
        Row ``order[i]`` of the noise goes with row i of x.

    References
    ----------
    Pooladian et al., "Multisample flow matching: straightening flows with minibatch couplings",
    2023. Tong et al., "Improving and generalizing flow-based generative models with minibatch
    optimal transport", 2024.
    """
    order = torch.empty(len(x), dtype=torch.long)
    for start in range(0, len(x), block_size):
        block = slice(start, start + block_size)
        # |x - noise|^2 less what a permutation cannot change
        cost = -(x[block] @ noise[block].T)
        order[block] = start + torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])
    return order.to(x.device)


PAIRINGS = {"independent": None, "optimal_transport": optimal_transport}
