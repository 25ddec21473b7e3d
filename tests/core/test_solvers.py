import math

import pytest
import torch
from torch.testing import assert_close

from skgen.core.solvers import SOLVERS, integrate, time_grid

every_solver = pytest.mark.parametrize("name", SOLVERS)


@every_solver
def test_tableau_is_consistent(name):
    tableau = SOLVERS[name]
    assert [len(row) for row in tableau.stages] == list(range(len(tableau.weights)))
    nodes = [sum(row) for row in tableau.stages]
    for power in range(min(tableau.order, 5)):  # quadrature order: sum b c^(q-1) = 1/q
        total = sum(b * c**power for b, c in zip(tableau.weights, nodes, strict=True))
        assert total == pytest.approx(1 / (power + 1), abs=1e-14)


@every_solver
@pytest.mark.parametrize("reverse", [False, True])
def test_observed_order_of_convergence(name, reverse):
    def field(t, x):
        return (torch.cos(3 * x) + t * x, x.square().sum(1))

    def solve(n_steps):
        x = torch.tensor([[0.3, -1.0], [1.2, 0.1]], dtype=torch.float64)
        times = time_grid(n_steps)
        state = (x, torch.zeros(2, dtype=torch.float64))
        return torch.cat(
            [v.flatten() for v in integrate(field, state, times[::-1] if reverse else times,
                                            SOLVERS[name])]
        )  # fmt: skip

    truth = solve(2000)
    errors = [(solve(n) - truth).abs().max().item() for n in (20, 40)]
    order = math.log2(errors[0] / errors[1])
    assert order > SOLVERS[name].order - 0.35
    assert name == "euler" or errors[1] < 1e-2


@every_solver
def test_there_and_back(name):
    def field(t, x):
        return (torch.sin(x) * (1 + t),)

    start = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    times = time_grid(400)
    (end,) = integrate(field, (start,), times, SOLVERS[name])
    (back,) = integrate(field, (end,), times[::-1], SOLVERS[name])
    assert_close(back, start, atol=0.01 if name == "euler" else 1e-4, rtol=0)
    assert not torch.allclose(end, start, atol=0.1)


def test_observer_sees_every_step():
    seen = []
    times = time_grid(5)
    (end,) = integrate(
        lambda t, x: (torch.ones_like(x),), (torch.zeros(1, 1),), times, SOLVERS["rk4"],
        lambda state: seen.append(float(state[0])),
    )  # fmt: skip
    assert seen == pytest.approx(times[1:])
    assert float(end) == seen[-1]


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_time_grid(power):
    times = torch.tensor(time_grid(8, power), dtype=torch.float64)
    assert times[0] == 0 and times[-1] == 1 and len(times) == 9
    steps = times.diff()
    assert (steps > 0).all()
    assert (steps.diff() <= 1e-12).all()  # denser towards the data
    assert_close(1 - times[4], torch.tensor(0.5**power, dtype=torch.float64))
