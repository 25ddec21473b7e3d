"""Are generated rows like real ones? Distances, a classifier's answer, and copied rows."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, check_scalar, gen_batches

from .distances import Array, check_tables


def energy_distance(X_real: Any, X_fake: Any) -> float:
    r"""Energy distance of two tables of rows.

    .. math:: \sqrt{2\, \mathbb{E}|x - y| - \mathbb{E}|x - x'| - \mathbb{E}|y - y'|}

    with Euclidean distances of real rows x and generated rows y. It is 0 if, and only if, both
    follow the same distribution [1]_. The means are over all pairs, a row with itself included (the
    V-statistic): so the root always exists, and the distance of a table from itself is 0.

    Parameters
    ----------
    X_real : array-like of shape (n_real, n_columns)
        Real rows.
    X_fake : array-like of shape (n_fake, n_columns)
        Generated rows.

    Returns
    -------
    distance : float
        At least 0, in the root of the units of X: standardise columns of different units first. Too
        large on average, the more so the fewer rows there are: compare only distances of equally
        many, and print `score_floor` beside them.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have no rows or values that are not finite.

    See Also
    --------
    sliced_wasserstein_distance : In the units of the columns.

    Notes
    -----
    Time grows with the square of the number of rows; memory does not, as distances are taken some
    rows at a time.

    References
    ----------
    .. [1] Székely and Rizzo, "Energy statistics: a class of statistics based on distances", Journal
       of Statistical Planning and Inference 143, 2013.

    Examples
    --------
    >>> from skgen.metrics import energy_distance
    >>> energy_distance([[0.0, 0.0]], [[0.0, 2.0], [0.0, 2.0]])  # the root of 2 * 2
    2.0
    """
    real, fake = check_tables(1, X_real=X_real, X_fake=X_fake)
    squared = 2 * _mean_distance(real, fake) - _mean_distance(real, real)
    return float(np.sqrt(max(squared - _mean_distance(fake, fake), 0.0)))


def _mean_distance(x: Array, y: Array) -> float:
    return sum(cdist(x[part], y).sum() for part in _parts(x, y)) / (len(x) * len(y))


def sliced_wasserstein_distance(
    X_real: Any,
    X_fake: Any,
    n_projections: int = 200,
    p: float = 2.0,
    random_state: Any = None,
) -> float:
    r"""Wasserstein distance of two tables of rows, averaged over random directions.

    .. math:: \Big(\mathbb{E}_u\, W_p(u^\top x,\, u^\top y)^p\Big)^{1/p}, \qquad
              W_p(a, b)^p = \int_0^1 \big|F_a^{-1}(q) - F_b^{-1}(q)\big|^p\, dq

    with directions u uniform on the unit sphere and the quantile functions of the projected rows
    [1]_. Each of the distances on the line is exact, also of unequally many rows.

    Parameters
    ----------
    X_real : array-like of shape (n_real, n_columns)
        Real rows.
    X_fake : array-like of shape (n_fake, n_columns)
        Generated rows.
    n_projections : int, default=200
        Number of directions. The error of the average falls with its root. With one column, one is
        enough.
    p : float, default=2
        Order of the distance, at least 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the directions.

    Returns
    -------
    distance : float
        At least 0, in the units of X: standardise columns of different units first. A shift of all
        rows by a vector a gives :math:`|a| / \sqrt{d}` for d columns and ``p=2``, up to the choice
        of directions. Too large on average for finite samples: print `score_floor` beside it.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have no rows or values that are not finite, or if
        `n_projections` or `p` is less than 1.

    See Also
    --------
    energy_distance : Without random directions.

    References
    ----------
    .. [1] Bonneel, Rabin, Peyré and Pfister, "Sliced and Radon Wasserstein barycenters of
       measures", Journal of Mathematical Imaging and Vision 51, 2015.

    Examples
    --------
    >>> from skgen.metrics import sliced_wasserstein_distance
    >>> sliced_wasserstein_distance([[0.0], [1.0]], [[3.0], [4.0]], random_state=0)
    3.0
    """
    real, fake = check_tables(1, X_real=X_real, X_fake=X_fake)
    check_scalar(n_projections, "n_projections", Integral, min_val=1)
    check_scalar(p, "p", Real, min_val=1)
    directions = check_random_state(random_state).standard_normal((n_projections, real.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Both quantile functions are constant between steps of 1 / n_real and of 1 / n_fake; steps are
    # counted in units of 1 / (n_real * n_fake), where whole numbers are exact.
    n_real, n_fake = len(real), len(fake)
    ends = np.union1d(np.arange(1, n_real + 1) * n_fake, np.arange(1, n_fake + 1) * n_real)
    widths = np.diff(ends, prepend=0) / ends[-1]
    at_real, at_fake = (ends - 1) // n_fake, (ends - 1) // n_real
    total = 0.0
    for direction in directions:
        gaps = np.sort(real @ direction)[at_real] - np.sort(fake @ direction)[at_fake]
        total += widths @ np.abs(gaps) ** p
    return float((total / n_projections) ** (1 / p))


def classifier_two_sample_test(
    X_real: Any,
    X_fake: Any,
    classifier: Any = None,
    cv: Any = 5,
    random_state: Any = None,
) -> float:
    """How well a classifier tells generated rows from real ones: area under the ROC curve.

    That is the chance that a generated row is held for generated rather than a real one, on rows
    the classifier was not trained on, averaged over the folds of a cross-validation [1]_.

    Parameters
    ----------
    X_real : array-like of shape (n_real, n_columns)
        Real rows that the generator has not seen: from copies of `X_real` a classifier learns the
        wrong label, and the area falls below 0.5.
    X_fake : array-like of shape (n_fake, n_columns)
        Generated rows.
    classifier : classifier, default=None
        Any with ``decision_function`` or ``predict_proba``. None is
        `HistGradientBoostingClassifier`; a linear one sees nothing but a shift of the means.
    cv : int or cross-validation generator, default=5
        Number of folds, shuffled and with their share of both tables, or a splitter.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and of the default classifier.

    Returns
    -------
    area : float
        0.5 if the rows cannot be told apart by this classifier, 1 if always. It grows with the
        number of rows the classifier can learn from: compare only areas of equally many.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have fewer rows than there are folds or values that
        are not finite.

    References
    ----------
    .. [1] Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen.metrics import classifier_two_sample_test
    >>> rng = np.random.default_rng(0)
    >>> X, fake = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    >>> 0.4 < classifier_two_sample_test(X, fake, random_state=0) < 0.6
    True
    >>> classifier_two_sample_test(X, 3 * fake, random_state=0) > 0.8  # the means agree
    True
    """
    folds, n_folds = cv, 2
    if isinstance(cv, Integral):
        check_scalar(cv, "cv", Integral, min_val=2)
        folds, n_folds = StratifiedKFold(cv, shuffle=True, random_state=random_state), int(cv)
    real, fake = check_tables(n_folds, X_real=X_real, X_fake=X_fake)
    if classifier is None:
        classifier = HistGradientBoostingClassifier(random_state=random_state)
    X, generated = np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)])
    areas = cross_val_score(
        classifier, X, generated, cv=folds, scoring="roc_auc", error_score="raise"
    )
    return float(areas.mean())


def nearest_neighbour_ratio(X_train: Any, X_fake: Any, X_test: Any) -> float:
    r"""Whether generated rows are copies: the share nearer to training than to held-out rows.

    .. math:: \frac{a / n_{train}}{a / n_{train} + (1 - a) / n_{test}}

    where a is the share of generated rows that have their nearest real row among those the
    generator was trained on, and not among others of the same distribution; of several equally near
    rows each counts for its part. For tables of the same size it is a itself, the share of [1]_.
    Otherwise the larger table has more near rows by chance, and the division makes up for it. No
    rows are left out to make the tables equal, so a copy of any training row is noticed.

    Parameters
    ----------
    X_train : array-like of shape (n_train, n_columns)
        Rows the generator was fitted to, at least two.
    X_fake : array-like of shape (n_fake, n_columns)
        Generated rows, at least two.
    X_test : array-like of shape (n_test, n_columns)
        Held-out rows, at least two. The more there are, the better is the estimate.

    Returns
    -------
    share : float
        About 0.5 if nothing was memorised, and 1 for copies of training rows; 0 for copies of
        held-out rows. It tells nothing about quality: rows far from all others have 0.5, too.
        Distances are Euclidean, in columns standardised by the training rows.

    Raises
    ------
    ValueError
        If the tables differ in their columns, have fewer than two rows or values that are not
        finite.

    Notes
    -----
    Many generated rows may have one nearest neighbour, so they are no independent trials, and the
    share scatters more than one of so many coin tosses. The test of [2]_ is a close relative: it
    compares the distances from generated and from held-out rows to the training rows.

    References
    ----------
    .. [1] Platzer and Reutterer, "Holdout-based empirical assessment of mixed-type synthetic data",
       Frontiers in Big Data 4, 2021.
    .. [2] Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in
       generative models", AISTATS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from skgen.metrics import nearest_neighbour_ratio
    >>> rng = np.random.default_rng(0)
    >>> train, test, fresh = rng.normal(size=(3, 1000, 2))
    >>> 0.4 < nearest_neighbour_ratio(train, fresh, test) < 0.6
    True
    >>> nearest_neighbour_ratio(train, train[:200], test)
    1.0
    """
    tables = check_tables(2, X_train=X_train, X_fake=X_fake, X_test=X_test)
    scale = StandardScaler().fit(tables[0]).transform
    train, fake, test = (scale(table) for table in tables)
    n_train, n_test, real = len(train), len(test), np.concatenate([train, test])
    votes = 0.0
    for part in _parts(fake, real):
        distances = cdist(fake[part], real)
        nearest = distances == distances.min(axis=1, keepdims=True)
        votes += (nearest[:, :n_train].sum(axis=1) / nearest.sum(axis=1)).sum()
    per_train, per_test = votes / n_train, (len(fake) - votes) / n_test
    return float(per_train / (per_train + per_test))


def _parts(x: Array, y: Array) -> Iterator[slice]:
    """Slices of x whose distances from all y take 64 MB."""
    return gen_batches(len(x), max(1, 2**23 // len(y)))
