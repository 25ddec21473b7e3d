import math
from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from skgen.core.solvers import SOLVERS, Adams, RungeKutta

every_solver = pytest.mark.parametrize("name", SOLVERS)


def solve(name, field, state, start, end, n):
    return list(SOLVERS[name].steps(field, state, start, end, n))[-1]


@pytest.mark.parametrize("name", [n for n in SOLVERS if isinstance(SOLVERS[n], RungeKutta)])
def test_tableau_is_consistent(name):
    tableau = SOLVERS[name]
    assert [len(row) for row in tableau.stages] == list(range(len(tableau.weights)))
    nodes = [sum(row) for row in tableau.stages]
    for power in range(min(tableau.order, 5)):  # quadrature order: sum b c^(q-1) = 1/q
        total = sum(b * c**power for b, c in zip(tableau.weights, nodes, strict=True))
        assert total == pytest.approx(1 / (power + 1), abs=1e-14)


@pytest.mark.parametrize("name", [n for n in SOLVERS if isinstance(SOLVERS[n], Adams)])
def test_weights_of_the_differences_are_those_of_adams(name):
    method = SOLVERS[name]
    weights = []  # sum_{i<=j} g_i / (j + 1 - i) = 1
    for j in range(method.order + 1):
        weights.append(1 - sum(w * Fraction(1, j + 1 - i) for i, w in enumerate(weights)))
    assert method.weights == pytest.approx([float(w) for w in weights], abs=1e-15)


@every_solver
@pytest.mark.parametrize("reverse", [False, True])
def test_observed_order_of_convergence(name, reverse):
    def field(t, state):
        x = state[:, :2]  # the last column is an integral along the way
        return torch.cat([torch.cos(3 * x) + t * x, x.square().sum(1, keepdim=True)], dim=1)

    def end(n_steps):
        state = torch.tensor([[0.3, -1.0, 0.0], [1.2, 0.1, 0.0]], dtype=torch.float64)
        return solve(name, field, state, *interval, n_steps)

    interval = (1.0, 0.0) if reverse else (0.0, 1.0)
    truth = end(2000)
    errors = [(end(n) - truth).abs().max().item() for n in (20, 40)]
    order = math.log2(errors[0] / errors[1])
    expected = {"adams": 3}.get(name, SOLVERS[name].order)  # its start is of order 3
    assert order > expected - 0.35
    assert name == "euler" or errors[1] < 1e-2


def test_adams_has_its_order_where_the_field_vanishes_at_the_start():
    def field(t, x):
        return t * torch.cos(3 * x)

    state = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    end = {n: solve("adams", field, state, 0.0, 2.0, n) for n in (40, 80, 4000)}
    errors = [(end[n] - end[4000]).abs().max().item() for n in (40, 80)]
    assert math.log2(errors[0] / errors[1]) > 4 - 0.35


@every_solver
def test_there_and_back(name):
    def field(t, x):
        return torch.sin(x) * (1 + t)

    start = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    end = solve(name, field, start, 0.0, 1.0, 400)
    back = solve(name, field, end, 1.0, 0.0, 400)
    assert_close(back, start, atol=0.01 if name == "euler" else 1e-4, rtol=0)
    assert not torch.allclose(end, start, atol=0.1)


@every_solver
def test_yields_the_state_after_every_step(name):
    start = torch.zeros(1, 1)
    states = SOLVERS[name].steps(lambda t, x: torch.ones_like(x), start, 1.0, 0.0, 5)
    assert [float(x) for x in states] == pytest.approx([-0.2, -0.4, -0.6, -0.8, -1.0])
    assert float(start) == 0


@every_solver
def test_evaluates_as_often_as_documented(name):
    times = []
    solve(name, lambda t, x: times.append(t) or x, torch.ones(1, 1), 0.0, 1.0, 6)
    per_step = {"adams": 1, "rk4": 4, "dopri5": 6, "heun": 2, "midpoint": 2, "euler": 1}[name]
    assert len(times) == 6 * per_step + (name == "adams")
    assert min(times) >= 0
    assert max(times) <= 1 + 1e-12
    assert times == SOLVERS[name].times(0.0, 1.0, 6)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("euler", "midpoint")])
@pytest.mark.parametrize("start, end", [(0.0, 1.0), (1.0, 0.0)])
def test_the_last_time_is_the_end_to_the_last_bit(name, start, end):
    times = []
    # 49 times the rounded 1 / 49 is not 1.
    solve(name, lambda t, x: times.append(t) or x, torch.ones(1, 1), start, end, 49)
    assert end in times[-2:]


@every_solver
def test_slopes_may_have_less_precision_and_stay_the_field_s(name):
    given = []

    def field(t, x):
        given.append((torch.cos(x.float() + t), torch.cos(x.float() + t)))
        return given[-1][0]

    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = solve(name, field, start, 0.0, 1.0, 12)
    expected = solve(name, lambda t, x: torch.cos(x + t), start, 0.0, 1.0, 12)
    assert found.dtype == torch.float64
    assert_close(found, expected, atol=1e-6, rtol=0)
    for slope, copy in given:
        assert torch.equal(slope, copy)
