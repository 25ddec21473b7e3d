"""The densities skgen is compared with, each tuned as its users would.

Every peer is a function ``fit(X, seed) -> score_samples`` on standardised rows.
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity


def tuned_mixture(X, seed):
    """Fitted mixture; number of components and covariance type chosen on a 10% hold-out."""
    X_fit, X_val = train_test_split(X, test_size=0.1, random_state=seed)
    candidates = [
        GaussianMixture(k, covariance_type=kind, reg_covar=1e-6, random_state=seed)
        for kind in ("full", "diag")
        for k in (1, 2, 4, 8, 16, 32, 64)
        if k < len(X_fit) / 4
    ]
    best = max(candidates, key=lambda mixture: mixture.fit(X_fit).score(X_val))
    return best.fit(X)


def gaussian_mixture(X, seed):
    """Tuned mixture as a density."""
    return tuned_mixture(X, seed).score_samples


def kernel_density(X, seed):
    """Bandwidth chosen by 3-fold cross-validation on at most 5,000 rows."""
    search = GridSearchCV(KernelDensity(), {"bandwidth": np.logspace(-2, 0.3, 16)}, cv=3)
    search.fit(X[:5000])
    return search.best_estimator_.fit(X).score_samples


def trained(build, max_seconds=150.0):
    """Flow trained by Adam 1e-3, batch 256, with a patience of 20 epochs on a 10% hold-out.

    ``build(n_features)`` returns a module and its function ``log_prob(rows)``.
    """
    import torch

    def fit(X, seed):
        torch.manual_seed(seed)
        X_fit, X_val = (
            torch.tensor(part, dtype=torch.float32)
            for part in train_test_split(X, test_size=0.1, random_state=seed)
        )
        flow, log_prob = build(X.shape[1])
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
        best, best_state, waited, start = -np.inf, None, 0, time.perf_counter()
        while waited < 20 and time.perf_counter() - start < max_seconds:
            flow.train()
            for rows in torch.randperm(len(X_fit)).split(256):
                optimiser.zero_grad()
                (-log_prob(X_fit[rows]).mean()).backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
                optimiser.step()
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


PEERS = {
    "GMM": gaussian_mixture,
    "KDE": kernel_density,
    "NSF": lambda X, seed: trained(zuko_nsf)(X, seed),
    "MAF": lambda X, seed: trained(zuko_maf)(X, seed),
    "nflows": lambda X, seed: trained(nflows_realnvp)(X, seed),
}
