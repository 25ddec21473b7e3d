"""Velocity networks, the small one with a divergence in closed form.

They give the excess velocity ``e(x, t) = v(x, t) - c(t) x`` over that of a Gaussian, see
`GaussianPath.gaussian_gain`; their output layers start at zero.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .divergence import exact_divergence
from .interfaces import cache_parts, gradient_of
from .paths import GaussianPath
from .products import product
from .times import TimeFeatures
from .two_layers import two_layers, two_layers_gradient
from .workspace import Workspace

Field = Callable[[float, Tensor], Tensor]


class Network(nn.Module, ABC):
    """A network that gives the excess velocity of rows ``forward(x, *time_features(r))``."""

    time_features: Callable[[Tensor], tuple[Tensor, Tensor]]

    @abstractmethod
    def field(
        self, dtype: torch.dtype, divergence: bool = False, times: Sequence[float] = ()
    ) -> Field:
        """Prepare the network for a solve: ``field(t, x)`` at one time for all rows.

        Parameters
        ----------
        dtype : torch.dtype
            Of the arithmetic.
        divergence : bool
            Whether to compute the divergence too.
        times : sequence of float
            What can be computed in advance is, for these times.

        Returns
        -------
        callable
            Maps a float time and rows (n, d + k) to their excess velocity (n, d), which the
            divergence follows as a last column if it is asked for.
        """

    def training_forward(
        self, x: Tensor, features: Tensor, zoom: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Output, and a function that adds to the parameters' gradients, given that of the output.

        To be called once, before the next forward pass.
        """
        found = self(x, features, zoom)
        return found.detach(), found.backward


class VelocityNetwork(Network):
    """Two hidden layers with a skip from the input to the second, divergence in closed form.

    The input is ``x``, ``zoom(t) x`` and the time features, so at one time it is affine in x with
    weights ``W_1(t)`` and ``W_2(t)`` and offsets ``o_1(t)`` and ``o_2(t)``::

        u = W_1 x + o_1,   p = W_2 x + o_2 + B act(u),   e = W_out act(p) + b

    The trace of the Jacobian is, with ``k = diag(W_2 W_out)`` and ``M = B * (W_1 W_out)^T``::

        div e = sum_i act'(p)_i (k_i + (M act'(u))_i)

    which costs one more product of the size of ``B``, whatever the number of features.

    Parameters
    ----------
    n_features : int
        Number of features d.
    hidden_layer_sizes : tuple of two int
        Widths of the layers ``u`` and ``p``.
    activation : str
        Key of `ACTIVATIONS`.
    path : GaussianPath
        Gives ``zoom(t)``.
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    n_conditions : int
        Number k of columns that follow those of x in all rows (n, d + k): the network sees them
        like x, but nothing moves them and the divergence leaves them out.
    """

    # Weights of x are stored divided by these factors, so that the optimiser, whose steps have one
    # size for all weights, moves them that many times faster: sharp densities need large input
    # weights early. (3000 steps on a 5-feature table: -3.8 nats at 1 and 1, -3.2 at 30 and 3.)
    speed_u, speed_u_zoom = 30.0, 10.0
    speed_p, speed_p_zoom = 3.0, 1.0
    speed: Tensor
    time_features: TimeFeatures

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        path: GaussianPath,
        generator: torch.Generator,
        n_conditions: int = 0,
    ) -> None:
        super().__init__()
        width_u, width_p = hidden_layer_sizes
        width, d, n_in = width_u + width_p, n_features, n_features + n_conditions
        self.activation = activation
        self._space = Workspace()
        self.time_features = TimeFeatures(path)
        n_times = self.time_features.n_features
        speed = torch.ones(2 * n_in + n_times, width, dtype=torch.float32)
        speed[:n_in, :width_u], speed[n_in : 2 * n_in, :width_u] = self.speed_u, self.speed_u_zoom
        speed[:n_in, width_u:], speed[n_in : 2 * n_in, width_u:] = self.speed_p, self.speed_p_zoom
        self.register_buffer("speed", speed)
        weights = [_uniform(n, width, generator) for n in (2 * n_in, n_times)]
        self.weight_in = nn.Parameter(torch.cat(weights) / speed)
        self.hidden = nn.Parameter(_uniform(width_u, width_p, generator).T.contiguous())
        self.out = nn.Parameter(torch.zeros(d, width_p, dtype=torch.float32))
        self.bias_out = nn.Parameter(torch.zeros(d, dtype=torch.float32))

    def forward(self, x: Tensor, features: Tensor, zoom: Tensor) -> Tensor:
        """Excess velocity (n, d) of rows (n, d + k) at times given by their features."""
        inputs = torch.cat([x, zoom * x, features], dim=1)
        activation, widths = ACTIVATIONS[self.activation].function, self.hidden.shape[::-1]
        u, skip = (inputs @ (self.weight_in * self.speed)).split(widths, dim=1)
        p = torch.addmm(skip, activation(u), self.hidden.T)
        return torch.addmm(self.bias_out, activation(p), self.out.T)

    @torch.no_grad()
    def training_forward(
        self, x: Tensor, features: Tensor, zoom: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        """See `Network.training_forward`; without autograd, so that a step takes a sixth less."""
        weights = self.hidden, self.out
        inputs = torch.cat([x, zoom * x, features], dim=1)
        activation, weight_in = ACTIVATIONS[self.activation], self.weight_in * self.speed
        found, layers = two_layers(
            inputs, weight_in, *weights, self.bias_out, activation, self._space
        )

        def add_gradient(slope: Tensor) -> None:
            with torch.no_grad():
                to_in, *others = two_layers_gradient(
                    layers, slope, *weights, activation, self._space
                )
                gradient_of(self.weight_in).addcmul_(to_in, self.speed)
                parameters = self.hidden, self.out, self.bias_out
                for parameter, gradient in zip(parameters, others, strict=True):
                    gradient_of(parameter).add_(gradient)

        return found, add_gradient

    def field(
        self, dtype: torch.dtype, divergence: bool = False, times: Sequence[float] = ()
    ) -> Field:
        """See `Network.field`."""
        activation = ACTIVATIONS[self.activation]
        hidden, out = self.hidden.detach().to(dtype), self.out.detach().to(dtype)
        bias_out = self.bias_out.detach().to(dtype)[:, None]
        widths, d = hidden.shape[::-1], len(out)
        weight_in = (self.weight_in * self.speed).detach().to(dtype).T
        n_in = (weight_in.shape[1] - self.time_features.n_features) // 2
        weight_x, weight_zoom, weight_t = weight_in.split(
            [n_in, n_in, weight_in.shape[1] - 2 * n_in], dim=1
        )
        # What depends on the time is ``a + zoom(t) b`` with (a, b) of these, and an offset.
        changing = [(weight_x.contiguous(), weight_zoom.contiguous())]
        if divergence:
            parts = [w[:, :d].split(widths) for w in (weight_x, weight_zoom)]
            changing.append(tuple(hidden * (u @ out).T for u, _ in parts))
            changing.append(tuple((p.T * out).sum(0)[:, None] for _, p in parts))

        def of_times(times: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
            features, zoom = self.time_features(out.new_tensor(times)[:, None])
            yield from zip((weight_t @ features.T).split(1, dim=1), zoom, strict=True)

        known = dict(zip(times, of_times(times), strict=True)) if times else {}

        def columns(x: Tensor, offset: Tensor, weight: Tensor, *weights: Tensor) -> Tensor:
            # Units are runs of memory: products that give few columns by rows take twice as long.
            before = product(weight, x, offset)
            u, p = before[: widths[0]], before[widths[0] :]
            if not divergence:
                p = product(hidden, activation.in_place(u), p)
                return product(out, activation.in_place(p), bias_out)
            coupling, skip = weights
            act_u, slope_u = activation.with_slope(u)
            act_p, slope_p = activation.with_slope(product(hidden, act_u, p))
            found = x.new_empty(d + 1, x.shape[1])
            torch.addmm(bias_out, out, act_p, out=found[:d])
            torch.sum(slope_p.mul_(product(coupling, slope_u, skip)), 0, out=found[d])
            return found

        def excess(t: float, x: Tensor) -> Tensor:
            offset, zoom = known[t] if t in known else next(of_times([t]))
            weights = [torch.addcmul(a, zoom, b) for a, b in changing]
            parts = [columns(part.T, offset, *weights) for part in cache_parts(x, dtype)]
            return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).T

        return excess


class DeepVelocityNetwork(Network):
    """Any number of hidden layers, each of which sees the input; divergence by products.

    The layers compute ``h_k = act(A_k h_{k-1} + W_k input)`` with the input of
    `VelocityNetwork`; the divergence takes ``d`` Jacobian-vector products, exact and about
    ``d`` times as dear as the velocity. Parameters are those of `VelocityNetwork`.
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        path: GaussianPath,
        generator: torch.Generator,
        n_conditions: int = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.time_features = TimeFeatures(path)
        n_inputs = 2 * (n_features + n_conditions) + self.time_features.n_features
        sizes = list(hidden_layer_sizes)
        self.weights = nn.ParameterList(
            nn.Parameter(_uniform(n_inputs + before, size, generator))
            for before, size in zip([0, *sizes[:-1]], sizes, strict=True)
        )
        self.out = nn.Parameter(torch.zeros(sizes[-1], n_features, dtype=torch.float32))
        self.bias_out = nn.Parameter(torch.zeros(n_features, dtype=torch.float32))

    def forward(self, x: Tensor, features: Tensor, zoom: Tensor) -> Tensor:
        """See `VelocityNetwork.forward`."""
        return self._output(list(self.weights), self.out, self.bias_out, x, features, zoom)

    def _output(
        self,
        weights: Sequence[Tensor],
        out: Tensor,
        bias_out: Tensor,
        x: Tensor,
        features: Tensor,
        zoom: Tensor,
    ) -> Tensor:
        inputs = torch.cat([x, zoom * x, features], dim=1)
        hidden = inputs[:, :0]
        for weight in weights:
            hidden = torch.cat([inputs, hidden], dim=1) @ weight
            hidden = ACTIVATIONS[self.activation].function(hidden)
        return torch.addmm(bias_out, hidden, out)

    def field(
        self, dtype: torch.dtype, divergence: bool = False, times: Sequence[float] = ()
    ) -> Field:
        """See `VelocityNetwork.field`."""
        *weights, out, bias_out = (
            p.detach().to(dtype) for p in (*self.weights, self.out, self.bias_out)
        )

        def excess(t: float, x: Tensor) -> Tensor:
            times = self.time_features(x.new_full((len(x), 1), t))
            d = len(bias_out)

            def call(moved: Tensor) -> Tensor:
                rows = torch.cat([moved, x[:, d:]], dim=1)
                return self._output(weights, out, bias_out, rows, *times)

            return exact_divergence(call, x[:, :d]) if divergence else call(x[:, :d])

        return excess


def velocity_network(
    n_features: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    path: GaussianPath,
    generator: torch.Generator,
    n_conditions: int = 0,
) -> VelocityNetwork | DeepVelocityNetwork:
    """Build the network with a closed-form divergence for two hidden layers, else the deep one."""
    kind = VelocityNetwork if len(hidden_layer_sizes) == 2 else DeepVelocityNetwork
    return kind(n_features, hidden_layer_sizes, activation, path, generator, n_conditions)


def _uniform(n_in: int, n_out: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(n_in, n_out, generator=generator, dtype=torch.float32)
    return (2 * uniform - 1) / math.sqrt(n_in)
