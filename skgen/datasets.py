"""Two-dimensional densities known exactly, to measure how close a fitted density comes.

Every class draws samples and gives its exact log-density and entropy, so the divergence of a
fitted model from the truth needs no second estimate. With ``X = truth.sample(n)``::

    KL(truth || model) = -truth.entropy() - model.score(X)

up to the Monte Carlo error of the mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import i0e, logsumexp
from sklearn.utils import check_array, check_random_state, gen_batches

__all__ = [
    "Checkerboard",
    "Circles",
    "EightGaussians",
    "KnownDensity",
    "Pinwheel",
    "Spiral",
    "TwoMoons",
]

Array = NDArray[np.float64]
_POSITIVE = (0.0, math.inf)


class KnownDensity(ABC):
    """Base of the exact densities: checks arguments once, subclasses hold the formulas.

    Subclasses are frozen dataclasses; ``_bounds`` names the open interval of each parameter.
    """

    _bounds: ClassVar[dict[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            low, high = self._bounds[field.name]
            value: Any = getattr(self, field.name)
            kind = Integral if isinstance(field.default, int) else Real
            if (
                not isinstance(value, kind)
                or isinstance(value, bool)
                or not low < float(value) < high
            ):
                noun = "an integer" if kind is Integral else "a real number"
                raise ValueError(
                    f"{field.name} of {type(self).__name__} must be {noun} strictly between "
                    f"{low:g} and {high:g}, got {value!r}."
                )

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw independent points.

        Parameters
        ----------
        n_samples : int, default=1
            Number of points, at least 1.
        random_state : int, RandomState instance or None, default=None
            Seed or generator; None uses NumPy's global generator.

        Returns
        -------
        X : ndarray of shape (n_samples, 2)
        """
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}.")
        return self._sample(int(n_samples), check_random_state(random_state))

    def score_samples(self, X: ArrayLike) -> Array:
        """Exact log-density of each row of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats; -inf where the density is 0.
        """
        points: Array = check_array(X, dtype=np.float64, input_name="X")
        if points.shape[1] != 2:
            raise ValueError(
                f"{type(self).__name__} is a density in the plane: X must have 2 columns, "
                f"got {points.shape[1]}."
            )
        return self._log_density(points)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of the rows of X, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)
        y : None
            Ignored.

        Returns
        -------
        score : float
        """
        return float(np.mean(self.score_samples(X)))

    def entropy(self) -> float:
        """Differential entropy in nats, in closed form or by quadrature: no sampling error.

        Returns
        -------
        entropy : float
        """
        return self._entropy()

    @abstractmethod
    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array: ...

    @abstractmethod
    def _log_density(self, X: Array) -> Array: ...

    @abstractmethod
    def _entropy(self) -> float: ...


def _mixture_log_density(X: Array, centres: Array, weights: Array, scale: float) -> Array:
    """Log of sum_k weights_k N(x; centres_k, scale^2 I), a bounded block of distances at a time."""
    out = np.empty(len(X))
    for rows in gen_batches(len(X), max(1, 2**20 // len(centres))):
        exponent = cdist(X[rows], centres, "sqeuclidean") / (-2 * scale**2)
        largest = exponent.max(axis=1)
        out[rows] = largest + np.log(np.exp(exponent - largest[:, None]) @ weights)
    return out - math.log(2 * math.pi * scale**2)


def _standard_normal_grid() -> tuple[Array, Array]:
    """Nodes (m, 2) and weights of the trapezoid rule for E f(z), z ~ N(0, I).

    On a smooth integrand with Gaussian tails the rule converges faster than any power of its step.
    """
    line = np.linspace(-8, 8, 129)
    z = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    weights = np.exp(-0.5 * np.sum(z**2, axis=1))
    return z, weights / weights.sum()


def _polar(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _rotate(X: Array, angle: Array) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * X[..., 0] - sin * X[..., 1], sin * X[..., 0] + cos * X[..., 1]], axis=-1)


@dataclass(frozen=True)
class EightGaussians(KnownDensity):
    r"""Eight equal Gaussians on a circle.

    .. math:: p(x) = \tfrac18 \sum_{k=0}^{7} N(x; c_k, s^2 I), \quad
              c_k = r\,(\sin(k\pi/4), \cos(k\pi/4))

    Parameters
    ----------
    radius : float, default=5.0
        Distance :math:`r` of the centres from the origin.
    scale : float, default=0.7
        Standard deviation :math:`s` of each Gaussian, in each coordinate.

    Examples
    --------
    >>> from skgen.datasets import EightGaussians
    >>> truth = EightGaussians()
    >>> truth.sample(1, random_state=0).round(2)
    array([[ 4.77, -3.26]])
    >>> round(truth.entropy(), 3)
    4.186
    """

    radius: float = 5.0
    scale: float = 0.7

    _bounds = {"radius": _POSITIVE, "scale": _POSITIVE}

    def _centres(self) -> Array:
        return self.radius * _polar(np.pi / 2 - np.arange(8) * np.pi / 4)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array:
        noise = rng.standard_normal((n_samples, 2))
        return self._centres()[rng.randint(8, size=n_samples)] + self.scale * noise

    def _log_density(self, X: Array) -> Array:
        return _mixture_log_density(X, self._centres(), np.full(8, 1 / 8), self.scale)

    def _entropy(self) -> float:
        # Rotations by 45 degrees map the density to itself, so one component stands for all.
        z, weights = _standard_normal_grid()
        return float(-weights @ self._log_density(self._centres()[0] + self.scale * z))


@dataclass(frozen=True)
class Checkerboard(KnownDensity):
    r"""Uniform on the eight dark squares of a 4 by 4 board that covers :math:`[-4, 4]^2`.

    .. math:: x = 2\,(v,\; u - 2b + (\lfloor v \rfloor \bmod 2)), \quad
              v \sim U(-2, 2),\; u \sim U(0, 1),\; b \sim U\{0, 1\}

    The density is 1/32 where :math:`\lfloor x_1/2 \rfloor + \lfloor x_2/2 \rfloor` is even and 0
    elsewhere; the entropy is :math:`\log 32`.

    Examples
    --------
    >>> from skgen.datasets import Checkerboard
    >>> Checkerboard().score_samples([[1.0, 1.0], [1.0, 3.0]]).round(3)
    array([-3.466,   -inf])
    """

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array:
        first = rng.uniform(-2, 2, size=n_samples)
        second = rng.uniform(size=n_samples) - 2 * rng.randint(2, size=n_samples)
        return 2 * np.column_stack([first, second + np.floor(first) % 2])

    def _log_density(self, X: Array) -> Array:
        dark = np.floor(X / 2).sum(axis=1) % 2 == 0
        inside = np.all((X >= -4) & (X < 4), axis=1)
        return np.where(dark & inside, -math.log(32), -np.inf)

    def _entropy(self) -> float:
        return math.log(32)


@dataclass(frozen=True)
class Circles(KnownDensity):
    r"""Two concentric circles, each with half the mass, blurred by Gaussian noise.

    The angle is uniform and integrates to a Bessel function:

    .. math:: p(x) = \tfrac12 \sum_{R \in \{1, f\}} \frac{1}{2\pi s^2}
              \exp\Big(-\frac{|x|^2 + R^2}{2 s^2}\Big) I_0\Big(\frac{R\,|x|}{s^2}\Big)

    Parameters
    ----------
    factor : float, default=0.5
        Radius :math:`f` of the inner circle, between 0 and 1; the outer radius is 1.
    noise : float, default=0.08
        Standard deviation :math:`s` of the noise, in each coordinate.

    See Also
    --------
    sklearn.datasets.make_circles : Angles on a regular grid, without a density.

    Examples
    --------
    >>> from skgen.datasets import Circles
    >>> Circles().score_samples([[1.0, 0.0], [0.0, 0.0]]).round(3)
    array([ -0.923, -17.011])
    """

    factor: float = 0.5
    noise: float = 0.08

    _bounds = {"factor": (0.0, 1.0), "noise": _POSITIVE}

    def _radii(self) -> Array:
        return np.array([1.0, self.factor])

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array:
        radius = self._radii()[rng.randint(2, size=n_samples)]
        centres = radius[:, None] * _polar(rng.uniform(0, 2 * np.pi, size=n_samples))
        return centres + self.noise * rng.standard_normal((n_samples, 2))

    def _log_density(self, X: Array) -> Array:
        norm = np.hypot(X[:, 0], X[:, 1])[:, None]
        # i0e(a) = exp(-a) I0(a) turns the exponent into -(|x| - R)^2 and cannot overflow.
        bessel = np.log(i0e(norm * self._radii() / self.noise**2))
        exponent = -0.5 * ((norm - self._radii()) / self.noise) ** 2 + bessel
        return logsumexp(exponent, axis=1) - math.log(4 * math.pi * self.noise**2)

    def _entropy(self) -> float:
        # The density turns about the origin, so one point of each circle stands for all.
        z, weights = _standard_normal_grid()
        ring = [self._log_density([radius, 0.0] + self.noise * z) for radius in self._radii()]
        return float(-weights @ np.mean(ring, axis=0))


@dataclass(frozen=True)
class Pinwheel(KnownDensity):
    r"""Gaussian blades round the origin, twisted the more the farther out.

    A point of blade :math:`k = 0, \dots, K-1` is

    .. math:: x = 2\,R\big(2\pi k / K + \rho\, e^{|f|}\big) f, \quad
              f \sim N\big((1, 0), \operatorname{diag}(s_r^2, s_t^2)\big)

    with :math:`R` the rotation by an angle. A turn that depends only on :math:`|f|` keeps areas,
    so the density is the mean of the blades' Gaussians at the untwisted point, divided by 4, and
    the entropy does not depend on :math:`\rho`. (The pinwheel of [1]_ turns by the first
    coordinate of :math:`f` instead, which has no closed inverse.)

    Parameters
    ----------
    n_arms : int, default=5
        Number of blades :math:`K`.
    radial_scale : float, default=0.3
        Standard deviation :math:`s_r` along a blade, before the doubling.
    tangential_scale : float, default=0.05
        Standard deviation :math:`s_t` across a blade, before the doubling.
    rate : float, default=0.25
        Twist :math:`\rho` in radians; negative turns the other way, 0 leaves the blades straight.

    References
    ----------
    .. [1] Johnson, Duvenaud, Wiltschko, Datta and Adams, "Composing graphical models with neural
       networks for structured representations and fast inference", NeurIPS 2016.

    Examples
    --------
    >>> from skgen.datasets import Pinwheel
    >>> Pinwheel().sample(1, random_state=0).round(2)
    array([[ 0.68, -2.98]])
    >>> round(Pinwheel().entropy(), 3), round(Pinwheel(rate=0.5).entropy(), 3)
    (1.631, 1.631)
    """

    n_arms: int = 5
    radial_scale: float = 0.3
    tangential_scale: float = 0.05
    rate: float = 0.25

    _bounds = {
        "n_arms": _POSITIVE,
        "radial_scale": _POSITIVE,
        "tangential_scale": _POSITIVE,
        "rate": (-math.inf, math.inf),
    }

    def _scales(self) -> Array:
        return np.array([self.radial_scale, self.tangential_scale])

    def _twist(self, norm: Array) -> Array:
        # The bound keeps exp finite; the density is 0 in floating point long before it.
        return self.rate * np.exp(np.minimum(norm, 500.0))

    def _place(self, z: Array, arm: NDArray[np.int_] | int) -> Array:
        f = [1.0, 0.0] + self._scales() * z
        twist = self._twist(np.hypot(f[:, 0], f[:, 1]))
        return 2 * _rotate(f, 2 * np.pi * arm / self.n_arms + twist)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array:
        z = rng.standard_normal((n_samples, 2))
        return self._place(z, rng.randint(self.n_arms, size=n_samples))

    def _log_density(self, X: Array) -> Array:
        straight = _rotate(X / 2, -self._twist(np.hypot(X[:, 0], X[:, 1]) / 2))
        blade = 2 * np.pi * np.arange(self.n_arms) / self.n_arms
        z = (_rotate(straight[:, None], -blade) - [1.0, 0.0]) / self._scales()
        area = 4 * self.n_arms * 2 * math.pi * self.radial_scale * self.tangential_scale
        return logsumexp(-0.5 * np.sum(z**2, axis=-1), axis=1) - math.log(area)

    def _entropy(self) -> float:
        # Turning by one blade maps the density to itself, so one blade stands for all.
        z, weights = _standard_normal_grid()
        return float(-weights @ self._log_density(self._place(z, 0)))


class _NoisyCurves(KnownDensity):
    r"""Curves :math:`c_k(t)`, each with equal mass, uniform t in [0, 1] and Gaussian noise.

    .. math:: p(x) = \frac1K \sum_k \int_0^1 N(x; c_k(t), s^2 I)\, dt
    """

    noise: float

    @abstractmethod
    def _curves(self, t: Array) -> Array:
        """Points of shape (K, len(t), 2)."""

    @abstractmethod
    def _max_speed(self) -> float:
        """Largest |dc_k/dt|."""

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Array:
        curves = self._curves(rng.uniform(size=n_samples))
        points = curves[rng.randint(len(curves), size=n_samples), np.arange(n_samples)]
        return points + self.noise * rng.standard_normal((n_samples, 2))

    def _nodes(self, order: int = 16) -> tuple[Array, Array]:
        """Centres and weights of the composite Gauss-Legendre rule in u, t = sin(u / 2)^2.

        No panel is longer than two standard deviations of the noise. The substitution crowds the
        nodes at the ends of a curve: seen from far away the integrand is an exponential that is
        steepest there, and evenly spread nodes would miss it.
        """
        n_panels = math.ceil(math.pi * self._max_speed() / (4 * self.noise))
        x, w = np.polynomial.legendre.leggauss(order)
        width = math.pi / n_panels
        u = (width * (np.arange(n_panels)[:, None] + (x + 1) / 2)).ravel()
        weights = np.tile(w * width / 2, n_panels) * np.sin(u) / 2
        curves = self._curves(np.sin(u / 2) ** 2)
        return curves.reshape(-1, 2), np.tile(weights, len(curves)) / len(curves)

    def _log_density(self, X: Array) -> Array:
        return _mixture_log_density(X, *self._nodes(), self.noise)

    def _entropy(self) -> float:
        centres, _ = self._nodes()
        step, reach = self.noise / 2, 8 * self.noise
        low, high = centres.min(axis=0) - reach, centres.max(axis=0) + reach
        axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        distance, _ = cKDTree(centres).query(grid, distance_upper_bound=reach)
        log_density = self._log_density(grid[distance <= reach])
        return float(-(step**2) * np.exp(log_density) @ log_density)


@dataclass(frozen=True)
class TwoMoons(_NoisyCurves):
    r"""Two interleaved half circles blurred by Gaussian noise.

    .. math:: p(x) = \frac{1}{2\pi} \int_0^\pi \big[N(x; (\cos a, \sin a), s^2 I)
              + N(x; (1 - \cos a, \tfrac12 - \sin a), s^2 I)\big]\, da

    The integral is taken by Gauss-Legendre quadrature, with more nodes the smaller the noise: the
    log-density is exact to 1e-8 up to a distance of 10, and the entropy to 1e-6. Its cost grows
    as 1 / noise, that of the entropy as 1 / noise squared.

    Parameters
    ----------
    noise : float, default=0.1
        Standard deviation :math:`s` of the noise, in each coordinate.

    See Also
    --------
    sklearn.datasets.make_moons : Angles on a regular grid, without a density.

    Examples
    --------
    >>> from skgen.datasets import TwoMoons
    >>> truth = TwoMoons()
    >>> truth.sample(1, random_state=0).round(2)
    array([[ 1.16, -0.48]])
    >>> round(truth.entropy(), 3)
    1.008
    """

    noise: float = 0.1

    _bounds = {"noise": _POSITIVE}

    def _curves(self, t: Array) -> Array:
        outer = _polar(np.pi * t)
        return np.stack([outer, [1.0, 0.5] - outer])

    def _max_speed(self) -> float:
        return math.pi


@dataclass(frozen=True)
class Spiral(_NoisyCurves):
    r"""Arms of an Archimedean spiral blurred by Gaussian noise.

    .. math:: x = r\,t\,(\cos a, \sin a) + s\,z, \quad a = 2\pi\,(n t + k / K), \quad
              t \sim U(0, 1),\; k \sim U\{0, \dots, K-1\},\; z \sim N(0, I)

    The parameter :math:`t` is uniform, not the length along the arm, so the arms thin out away
    from the origin. The log-density is a quadrature as for :class:`TwoMoons`.

    Parameters
    ----------
    turns : float, default=1.5
        Number of turns :math:`n` of each arm.
    noise : float, default=0.1
        Standard deviation :math:`s` of the noise, in each coordinate.
    radius : float, default=3.0
        Distance :math:`r` of the ends of the arms from the origin.
    n_arms : int, default=2
        Number of arms :math:`K`.

    Examples
    --------
    >>> from skgen.datasets import Spiral
    >>> Spiral().sample(1, random_state=0).round(2)
    array([[-0.72,  1.49]])
    """

    turns: float = 1.5
    noise: float = 0.1
    radius: float = 3.0
    n_arms: int = 2

    _bounds = {"turns": _POSITIVE, "noise": _POSITIVE, "radius": _POSITIVE, "n_arms": _POSITIVE}

    def _curves(self, t: Array) -> Array:
        start = np.arange(self.n_arms)[:, None] / self.n_arms
        return self.radius * t[:, None] * _polar(2 * np.pi * (self.turns * t + start))

    def _max_speed(self) -> float:
        return self.radius * math.hypot(1.0, 2 * math.pi * self.turns)
