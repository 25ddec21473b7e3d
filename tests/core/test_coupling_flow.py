import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from skgen.core.bijections import LayerChain, LULinear
from skgen.core.coupling import Coupling
from skgen.core.coupling_flow import CouplingFlow, StudentT
from skgen.core.gaussian import StandardNormal
from skgen.core.transformers import Affine, RationalQuadratic


def flow(base, input_noise=0.0, dropout=0.0, transformer=None):
    generator, transformer = torch.Generator().manual_seed(0), transformer or Affine()
    coupling = Coupling(2, transformer, (8, 8), "silu", 1, dropout, generator)
    chain = LayerChain(LULinear(torch.arange(2)), coupling)
    model = CouplingFlow(chain, base, input_noise).double()
    for p in model.chain.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return model


def rows(n=200):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("base", [StandardNormal(2), StudentT(2)])
def test_density_is_the_change_of_variables(base):
    model, x = flow(base), rows()
    z, log_det = model.chain(x)
    assert_close(model.log_prob(x), base.double().log_prob(z) + log_det)
    assert_close(model.log_prob_fast(x), model.log_prob(x))
    loss = -model.log_prob(x).mean()
    assert_close(model.loss(x, torch.Generator()), loss.detach())
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert_close(model.add_gradient(x, torch.Generator(), 0.5), loss.detach())
    assert_close([p.grad for p in model.parameters()], [0.5 * grad for grad in expected])
    assert_close(model.transport(model.transport(x, to_data=False), to_data=True), x)


def test_muon_is_for_the_hidden_units_of_splines():
    model = flow(StandardNormal(2), transformer=RationalQuadratic(8))
    assert [tuple(weight.shape) for weight in model.matrices()] == [(8, 9), (23, 9)]
    assert flow(StandardNormal(2)).matrices() == []


def test_samples_follow_the_density():
    model = flow(StandardNormal(2))
    drawn = model.sample(20_000, torch.Generator().manual_seed(0))
    noise = model.transport(drawn, to_data=False).detach()
    assert_close(noise.mean(0), torch.zeros(2).double(), atol=0.03, rtol=0)
    assert_close(torch.cov(noise.T), torch.eye(2).double(), atol=0.04, rtol=0)


@pytest.mark.parametrize("disturbance", [{"input_noise": 0.5}, {"dropout": 0.5}])
def test_disturbances_are_for_training_only(disturbance):
    model, x = flow(StandardNormal(2), **disturbance), rows()
    losses = [model.loss(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert_close(losses[0], losses[1])
    assert abs(losses[0] - losses[2]) > 1e-4
    assert_close(model.log_prob(x), model.log_prob(x))


def test_student_t():
    base = StudentT(2).double()
    base.log_freedom.data = torch.tensor([3.0, 30.0]).double().log()
    x = 3 * rows()
    expected = stats.t([3, 30]).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(base.log_prob(x).detach().numpy(), expected, rtol=1e-9)
    drawn = base.sample(20_000, torch.Generator().manual_seed(0))
    assert not drawn.requires_grad and drawn.dtype == torch.float64
    for column, freedom in zip(drawn.T, (3, 30), strict=True):
        assert stats.kstest(column.numpy(), stats.t(freedom).cdf).pvalue > 0.01


def in_place(model):
    for p in model.chain.parameters():
        p.data.add_(0.1)


def one_elsewhere(model):
    weight = list(model.chain.parameters())[-2]
    weight.data = weight.data + 0.1


def assigned(model):
    values = {name: value + 0.1 for name, value in model.named_parameters()}
    model.load_state_dict(model.state_dict() | values, assign=True)


def rounded(model):
    model.float().double()


@pytest.mark.parametrize("change", [in_place, one_elsewhere, assigned, rounded])
def test_views_of_weights_follow_them(change):
    model, x = flow(StandardNormal(2)), rows()

    def found():
        with torch.no_grad():
            return model.log_prob(x)

    before = found()
    copied = copy.deepcopy(model)
    assert_close(found(), before, rtol=0, atol=0)
    change(model)
    assert_close(found(), model.log_prob(x).detach(), rtol=0, atol=0)
    assert (found() - before).abs().max() > (0 if change is rounded else 0.01)
    with torch.no_grad():
        assert_close(copied.log_prob(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_of_weights_are_not_kept(dtype):
    model, x = flow(StandardNormal(2)).to(dtype), rows().double()
    with torch.no_grad():
        model.log_prob(x)
        in_place(model)
        found = model.log_prob(x)
    assert_close(found, model.log_prob(x).detach(), rtol=0, atol=0)


def test_results_without_autograd_may_enter_it():
    model, factor = flow(StandardNormal(2)), torch.ones(200, requires_grad=True)
    with torch.no_grad():
        log_prob, noise = model.log_prob(rows()), model.transport(rows(), to_data=False)
    (log_prob * factor + noise.sum(1) * factor).sum().backward()
    assert_close(factor.grad.double(), log_prob + noise.sum(1), rtol=1e-5, atol=1e-5)
