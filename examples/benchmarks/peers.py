"""The densities skgen is compared with, each tuned as its users would.

Every peer is a function ``fit(X, seed, max_seconds) -> score_samples`` on standardised rows; those
trained by gradient steps stop after ``max_seconds``, and mixtures begin no other size.
"""

from __future__ import annotations

import math
import time
from importlib.util import find_spec

import numpy as np
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity


def tuned_mixture(kind, **options):
    """Fitted mixture; number of components and covariance type chosen on a 10% hold-out."""

    def fit(X, seed, max_seconds=150.0):
        X_fit, X_val = train_test_split(X, test_size=0.1, random_state=seed)
        best, best_score, start = None, -np.inf, time.perf_counter()
        for covariance_type in ("full", "diag"):
            for k in (1, 2, 4, 8, 16, 32, 64):
                late = best is not None and time.perf_counter() - start > max_seconds
                if k < len(X_fit) / 4 and not late:
                    candidate = kind(
                        n_components=k,
                        covariance_type=covariance_type,
                        reg_covar=1e-6,
                        random_state=seed,
                        **options,
                    )
                    score = candidate.fit(X_fit).score(X_val)
                    if score > best_score:
                        best, best_score = candidate, score
        return best.fit(X)

    return fit


def mixture(kind, **options):
    """Tuned mixture as a density."""
    fit = tuned_mixture(kind, **options)
    return lambda X, seed, max_seconds=150.0: fit(X, seed, max_seconds).score_samples


def kernel_density(X, seed, max_seconds=150.0):
    """Bandwidth chosen by 3-fold cross-validation on at most 5,000 rows."""
    search = GridSearchCV(KernelDensity(), {"bandwidth": np.logspace(-2, 0.3, 16)}, cv=3)
    search.fit(X[:5000])
    return search.best_estimator_.fit(X).score_samples


def trained(build):
    """Flow trained by Adam 1e-3, batch 256, with a patience of 20 epochs on a 10% hold-out.

    ``build(n_features)`` returns a module and its function ``log_prob(rows)``.
    """
    import torch

    def fit(X, seed, max_seconds=150.0):
        torch.manual_seed(seed)
        X_fit, X_val = (
            torch.tensor(part, dtype=torch.float32)
            for part in train_test_split(X, test_size=0.1, random_state=seed)
        )
        flow, log_prob = build(X.shape[1])
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
        best, best_state, waited, start = -np.inf, None, 0, time.perf_counter()

        def late():
            return time.perf_counter() - start > max_seconds

        while waited < 20 and not late():
            flow.train()
            for rows in torch.randperm(len(X_fit)).split(256):
                optimiser.zero_grad()
                (-log_prob(X_fit[rows]).mean()).backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
                optimiser.step()
                if late():
                    break
            flow.eval()
            with torch.no_grad():
                score = float(log_prob(X_val).mean())
            waited += 1
            if score > best:
                best, waited = score, 0
                best_state = {name: value.clone() for name, value in flow.state_dict().items()}
        flow.load_state_dict(best_state)

        def score_samples(X):
            with torch.no_grad():
                parts = torch.tensor(X, dtype=torch.float32).split(4096)
                return np.concatenate([log_prob(part).double().numpy() for part in parts])

        return score_samples

    return fit


def zuko_nsf(n_features):
    """Autoregressive spline flow: 5 transforms, two layers of 128, 8 bins."""
    import zuko

    flow = zuko.flows.NSF(n_features, transforms=5, hidden_features=(128, 128))
    return flow, lambda rows: flow().log_prob(rows)


def zuko_maf(n_features):
    """Autoregressive affine flow: 5 transforms, two layers of 128."""
    import zuko

    flow = zuko.flows.MAF(n_features, transforms=5, hidden_features=(128, 128))
    return flow, lambda rows: flow().log_prob(rows)


def nflows_realnvp(n_features):
    """Affine coupling flow: 5 couplings with one residual block of two layers of 128."""
    from nflows.flows import SimpleRealNVP

    flow = SimpleRealNVP(n_features, 128, num_layers=5, num_blocks_per_layer=1)
    return flow, flow.log_prob


def zuko_cnf(n_features):
    """Continuous flow, two layers of 128: the trace estimated in training, exact elsewhere."""
    import zuko

    flow = zuko.flows.CNF(n_features, hidden_features=(128, 128))

    def log_prob(rows):
        flow.transform.exact = not flow.training
        return flow().log_prob(rows)

    return flow, log_prob


def flow_matching(X, seed, max_seconds=150.0, n_steps=20_000):
    """Flow matching as the tutorials of torchcfm have it: their network, Adam 1e-3, batch 256.

    The velocity is trained on straight ways from noise for 20,000 steps. Unlike there, a 10%
    hold-out of at most 200 rows is scored every 1,000 steps, to keep the best weights and to stop
    after five scores without a better one: the last weights are overfitted on small tables. The
    log-density is the integral of the exact divergence, by torchdiffeq's adaptive solver.
    """
    import torch
    from torchcfm import ConditionalFlowMatcher
    from torchcfm.models.models import MLP
    from torchdiffeq import odeint

    torch.manual_seed(seed)
    X_fit, X_val = train_test_split(X, test_size=0.1, random_state=seed)
    rows, n_features = torch.tensor(X_fit, dtype=torch.float32), X.shape[1]
    network, matcher = MLP(n_features, time_varying=True), ConditionalFlowMatcher(sigma=0.0)

    def derivatives(t, state):
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            velocity = network(torch.cat([x, t.expand(len(x), 1)], dim=1))
            total = velocity.sum(dim=0)
            divergence = sum(
                torch.autograd.grad(total[i], x, retain_graph=True)[0][:, i]
                for i in range(n_features)
            )
        return velocity.detach(), divergence

    def score_samples(X):
        found = []
        for x in torch.tensor(X, dtype=torch.float32).split(1024):
            times, state = torch.tensor([1.0, 0.0]), (x, torch.zeros(len(x)))
            with torch.no_grad():
                noise, change = odeint(derivatives, state, times, rtol=1e-5, atol=1e-5)
            squares = noise[-1].square().sum(dim=1) + n_features * math.log(2 * math.pi)
            found.append((change[-1] - squares / 2).double().numpy())
        return np.concatenate(found)

    optimiser, start = torch.optim.Adam(network.parameters(), lr=1e-3), time.perf_counter()
    best, best_state, waited = -np.inf, None, 0
    for step in range(1, n_steps + 1):
        x = rows[torch.randint(len(rows), (256,))]
        t, x_t, target = matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        optimiser.zero_grad()
        velocity = network(torch.cat([x_t, t[:, None]], dim=1))
        torch.nn.functional.mse_loss(velocity, target).backward()
        optimiser.step()
        late = time.perf_counter() - start > max_seconds
        if step % 1000 == 0 or step == n_steps or late:
            score = score_samples(X_val[:200]).mean()
            waited += 1
            if score > best:
                best, waited = score, 0
                best_state = {name: value.clone() for name, value in network.state_dict().items()}
            if late or waited == 5:
                break
    network.load_state_dict(best_state)
    return score_samples


PEERS = {
    "GMM": mixture(GaussianMixture),
    "BGMM": mixture(BayesianGaussianMixture, max_iter=1000),
    "KDE": kernel_density,
    "NSF": trained(zuko_nsf),
    "MAF": trained(zuko_maf),
    "CNF": trained(zuko_cnf),
    "nflows": trained(nflows_realnvp),
    "CFM": flow_matching,
}
PACKAGES = {
    "NSF": ["zuko"],
    "MAF": ["zuko"],
    "CNF": ["zuko"],
    "nflows": ["nflows"],
    "CFM": ["torchcfm", "torchdiffeq"],
}


def missing_package(name):
    """First package that a peer needs and that is not installed, or None."""
    return next((each for each in PACKAGES.get(name, []) if find_spec(each) is None), None)
