"""Figures: arrays in, a matplotlib `Figure` out.

Knows pixels, points, codes and the rows of a history. Knows no model class, trains nothing, opens
no file, changes no setting of matplotlib, does without pyplot's global list. Given `axes`, a
function draws there and returns their figure. Latent coordinates are counted from one in labels
(z_1 ... z_L) and from zero in arguments.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ppl_vae import checks

# Paul Tol, "Colour schemes" (2021), muted: told apart under the common colour-vision deficiencies;
# near-black added.
PALETTE = (
    "#332288",
    "#cc6677",
    "#44aa99",
    "#ddcc77",
    "#882255",
    "#88ccee",
    "#117733",
    "#aa4499",
    "#999933",
    "#222222",
)


class Picture(Figure):
    """A figure that a notebook shows when it is the last line of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


InverseCDF = Callable[[Tensor], Tensor] | None
Names = Sequence[str]
Ends = tuple[float, float]


def image_grid(
    images: Any, *, columns: int | None = None, title: str = "", axes: Axes | None = None
) -> Figure:
    """Images side by side in reading order.

    Args:
        images: (N, H, W) or (N, C, H, W) with C = 1 or 3, from 0 (black) to 1 or uint8 to 255,
            clipped for display.
        columns: images a row; None is ceil(sqrt(N)).
        title: stands above them.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what is not a batch of images.
    """
    pixels = _pixels("images", images)
    return _tiles(
        axes, pixels, math.ceil(math.sqrt(len(pixels))) if columns is None else columns, title=title
    )


def samples(images: Any, *, columns: int | None = None, axes: Axes | None = None) -> Figure:
    """Draws (or decoder means) from the prior, x ~ p(x).

    Args:
        images: as in `image_grid`.
        columns: images a row; None is ceil(sqrt(N)).
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what is not a batch of images.
    """
    return image_grid(images, columns=columns, title="Prior samples", axes=axes)


def reconstructions(
    originals: Any, reconstructed: Any, *, columns: int = 10, axes: Axes | None = None
) -> Figure:
    """Originals x, each over its reconstruction, in bands of pairs.

    Args:
        originals: as the images of `image_grid`.
        reconstructed: the same, of the same shape.
        columns: pairs in a band.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what are not two batches of images of one shape.
    """
    pair = _pair(_pixels, originals, reconstructed)
    columns = min(checks.integer("columns", columns), len(pair[0]))
    bands = [_whole_rows(pixels, columns) for pixels in pair]
    names = ["original", "reconstruction"] * len(bands[0])
    return _tiles(axes, np.stack(bands, axis=1).reshape(-1, *pair[0].shape[1:]), columns, names)


def manifold_grid(points_per_side: int, inverse_cdf: InverseCDF = None) -> Tensor:
    """Codes z on a square grid of equal prior mass.

    z[i n + j] = (F^-1(p_j), F^-1(p_i)) with p_i = (i + 1/2)/n: the first coordinate runs fastest,
    both rise.

    Args:
        points_per_side: n.
        inverse_cdf: F^-1 of each coordinate's prior, probabilities (n,) -> quantiles (n,); None is
            that of a standard normal.

    Returns:
        The codes, (n*n, 2).

    Raises:
        InputError: for quantiles that are not n finite numbers that rise.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes (2013), appendix A.

    >>> manifold_grid(2)
    tensor([[-0.6745, -0.6745],
            [ 0.6745, -0.6745],
            [-0.6745,  0.6745],
            [ 0.6745,  0.6745]])
    """
    quantiles = _quantiles(points_per_side, inverse_cdf)
    second, first = torch.meshgrid(quantiles, quantiles, indexing="ij")
    return torch.stack([first, second], -1).reshape(-1, 2).to(torch.get_default_dtype())


def manifold(
    images: Any, points_per_side: int, inverse_cdf: InverseCDF = None, *, axes: Axes | None = None
) -> Figure:
    """What the codes of `manifold_grid`, in its order, decode to: z_1 to the right, z_2 upward.

    Ticks are in units of z.

    Args:
        images: (n*n, ...), as in `image_grid`.
        points_per_side: n.
        inverse_cdf: as in `manifold_grid`.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what is not a batch of n*n images.
    """
    pixels = _pixels("images", images)
    ticks = _values(_quantiles(points_per_side, inverse_cdf).numpy())
    if len(pixels) != len(ticks) ** 2:
        checks.refuse(
            "images",
            f"{len(pixels)} images",
            f"{len(ticks) ** 2}",
            "decode manifold_grid(points_per_side)",
        )
    upward = _whole_rows(pixels, points_per_side)[::-1].reshape(pixels.shape)
    names = {"xlabel": "$z_1$ (prior quantiles)", "ylabel": "$z_2$ (prior quantiles)"}
    return _tiles(axes, upward, points_per_side, ticks[::-1], ticks, **names)


def traversal_codes(
    center: Tensor, num_steps: int = 9, ends: Ends = (-3, 3), dimensions: Sequence[int] = ()
) -> Tensor:
    """One code, with one coordinate at a time replaced by equally spaced values.

    Args:
        center: the code, (L,).
        num_steps: values of each coordinate.
        ends: the first and the last of them.
        dimensions: which D coordinates, counted from zero; none is all.

    Returns:
        Codes (D * num_steps, L), one block of `num_steps` for each coordinate.

    Raises:
        InputError: for a coordinate that the code does not have.

    >>> import torch
    >>> traversal_codes(torch.zeros(2), num_steps=3)
    tensor([[-3.,  0.],
            [ 0.,  0.],
            [ 3.,  0.],
            [ 0., -3.],
            [ 0.,  0.],
            [ 0.,  3.]])
    """
    values = torch.linspace(*ends, checks.integer("num_steps", num_steps)).to(center)
    chosen = dimensions or range(len(center))
    codes = center.repeat(len(chosen), num_steps, 1)
    for row, dimension in enumerate(chosen):
        if not 0 <= dimension < len(center):
            checks.refuse("dimensions", dimension, f"coordinates from 0 to {len(center) - 1}")
        codes[row, :, dimension] = values
    return codes.flatten(0, 1)


def traversals(
    images: Any,
    num_dimensions: int,
    *,
    ends: Ends = (-3, 3),
    dimensions: Sequence[int] = (),
    axes: Axes | None = None,
) -> Figure:
    """What `traversal_codes` decode to, one row for each coordinate.

    Args:
        images: as in `image_grid`, in the order of the codes.
        num_dimensions: D, the number of rows.
        ends: as given to `traversal_codes`, for the labels.
        dimensions: as given to `traversal_codes`, for the labels.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what is not a batch of images for D rows.
    """
    names = [_coordinate(d) for d in dimensions or range(num_dimensions)]
    if len(names) != num_dimensions:
        checks.refuse("dimensions", str(dimensions), f"{num_dimensions} coordinates, one a row")
    named = {"xlabel": "value of the row's coordinate", "ylabel": "coordinate"}
    return _strips(axes, images, num_dimensions, names, ends, **named)


def interpolation_codes(z_start: Tensor, z_end: Tensor, num_steps: int) -> Tensor:
    """Straight lines (1 - t) z_start + t z_end, t from 0 to 1, both ends included.

    Args:
        z_start: (L,) or (R, L).
        z_end: of the same shape.
        num_steps: codes on each line, at least 2.

    Returns:
        Codes (R * num_steps, L), one block of `num_steps` a pair.

    Raises:
        InputError: for two shapes that differ, and for fewer than 2 codes.

    >>> import torch
    >>> interpolation_codes(torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0]), 3)
    tensor([[0., 4.],
            [1., 2.],
            [2., 0.]])
    """
    if z_start.shape != z_end.shape:
        checks.refuse(
            "z_end's shape", str(tuple(z_end.shape)), f"that of z_start, {tuple(z_start.shape)}"
        )
    t = torch.linspace(0, 1, checks.integer("num_steps", num_steps, 2)).to(z_start)[:, None]
    return torch.lerp(z_start[..., None, :], z_end[..., None, :], t).reshape(-1, z_start.shape[-1])


def interpolations(images: Any, num_rows: int, *, axes: Axes | None = None) -> Figure:
    """What `interpolation_codes` decode to, one row a pair; columns are labelled by t.

    Args:
        images: as in `image_grid`, in the order of the codes.
        num_rows: R, the number of pairs.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for what is not a batch of images for R rows.
    """
    label = r"$t$ in $(1 - t)\, z_\mathrm{start} + t\, z_\mathrm{end}$"
    return _strips(axes, images, num_rows, (), (0, 1), xlabel=label)


def latent_scatter(z: Any, labels: Any = None, *, axes: Axes | None = None) -> Figure:
    """Codes, coloured by their labels.

    L = 1: a histogram stacked by label. L > 2: the two coordinates of largest variance.

    Args:
        z: (N, L).
        labels: (N,), of at most ten distinct values; None draws all in one colour.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for codes or labels of another shape, and for more values.
    """
    codes = _array(
        "z", z, "(N, L)", lambda shape: len(shape) == 2, "give the posterior means, vae.encode(x)"
    )
    variances, total = codes.var(axis=0), codes.shape[1]
    shown = sorted(np.argsort(-variances, kind="stable")[:2])
    names = [
        _coordinate(d) + (f" (variance {variances[d]:.2g})" if total > 2 else "") for d in shown
    ]
    title = f"The two of {total} coordinates with the largest variance" if total > 2 else ""
    xlabel, ylabel = names if total > 1 else (names[0], "number of data")
    return _scatter(
        _axes(axes, 5.4, 4.4), codes[:, shown], labels, xlabel=xlabel, ylabel=ylabel, title=title
    )


def points_scatter(
    points: Any, colors: Any = None, *, title: str = "", axes: Axes | None = None
) -> Figure:
    """Two-dimensional data.

    Args:
        points: (N, 2).
        colors: what they are coloured by, (N,), of at most ten distinct values; None draws all in
            one colour.
        title: stands above them.
        axes: where to draw; None makes a figure.

    Raises:
        InputError: for points or colours of another shape, and for more values.
    """
    array = _points("points", points)
    return _scatter(
        _axes(axes, 4.8, 4.0), array, colors, xlabel="$x_1$", ylabel="$x_2$", title=title
    )


def point_reconstructions(
    originals: Any, reconstructed: Any, labels: Any = None, *, axes: Any = None
) -> Figure:
    """Data and their reconstructions, side by side on one scale; a point keeps its colour.

    Args:
        originals: (N, 2).
        reconstructed: (N, 2).
        labels: what they are coloured by, (N,), of at most ten distinct values; None draws all in
            one colour.
        axes: two of them, where to draw; None makes a figure.

    Raises:
        InputError: for points or labels of another shape, and for more values.
    """
    pair = _pair(_points, originals, reconstructed)
    panels = _axes(axes, 8.0, 3.6, panels=2)
    low, high = np.min(pair, axis=(0, 1)), np.max(pair, axis=(0, 1))
    center, reach = (low + high) / 2, 0.55 * (high - low).max() or 1.0
    for panel, points, title in zip(panels, pair, ("Originals", "Reconstructions"), strict=True):
        points_scatter(points, labels, title=title, axes=panel)
        panel.set(
            adjustable="box",
            xlim=center[0] + reach * np.array([-1, 1]),
            ylim=center[1] + reach * np.array([-1, 1]),
        )
    return panels[0].get_figure(root=True)


def training_curves(
    rows: Sequence[Mapping[str, Any]], *, axes: Sequence[Axes] | None = None
) -> Figure:
    """A history: the bound on training and validation data, and the KL of each site.

    Reads `epoch`, `lower_bound`, `validation_lower_bound` and every `kl.<site>`, signed nats per
    datum, as numbers or as text. A column may be missing; a cell that is missing, empty or not
    finite is left out and its neighbours joined.

    Args:
        rows: one mapping an epoch.
        axes: two of them, where to draw; None makes a figure.

    Raises:
        InputError: for no rows.
    """
    if not rows:
        checks.refuse("rows", "no rows", "at least one epoch", "fit for one epoch first")
    bound, divergence = _axes(axes, 7.4, 3.2, panels=2)
    _curves(bound, rows, {"lower_bound": "training", "validation_lower_bound": "validation"})
    _curves(
        divergence, rows, {key: key[3:] for row in rows for key in row if key.startswith("kl.")}
    )
    bound.set(ylabel="lower bound (nats per datum)", title="Lower bound (higher is better)")
    divergence.set(ylabel="KL (nats per datum)", title="KL per latent site")
    return bound.get_figure(root=True)


def _axes(axes: Any, width: float, height: float, panels: int = 1) -> Any:
    if axes is None:
        axes = Picture(figsize=(width, height), dpi=150, layout="constrained").subplots(1, panels)
    return axes


def _coordinate(dimension: int) -> str:
    return f"$z_{{{dimension + 1}}}$"


def _array(
    subject: str, x: Any, shapes: str, fits: Callable[[tuple[int, ...]], bool], suggestion: str
) -> np.ndarray:
    tensor = x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    shape = tuple(tensor.shape)
    if 0 in shape or not fits(shape):
        checks.refuse(f"{subject}'s shape", str(shape), shapes, suggestion)
    return checks.finite(subject, tensor).double().numpy() / (
        255 if tensor.dtype == torch.uint8 else 1
    )


def _points(subject: str, x: Any) -> np.ndarray:
    return _array(
        subject, x, "(N, 2)", lambda s: len(s) == 2 and s[1] == 2, "draw images with image_grid"
    )


def _pixels(subject: str, x: Any) -> np.ndarray:
    """(N, H, W, C) in [0, 1]."""
    shapes = "images, (N, H, W) or (N, C, H, W) with C = 1 or 3"
    hint = (
        "draw two-dimensional points with points_scatter, fold flat pixels with "
        "x.reshape(-1, H, W), put last channels first with x.permute(0, 3, 1, 2)"
    )
    pixels = _array(
        subject, x, shapes, lambda s: len(s) == 3 or (len(s) == 4 and s[1] in (1, 3)), hint
    ).clip(0, 1)
    return np.moveaxis(pixels if pixels.ndim == 4 else pixels[:, None], 1, -1)


def _pair(
    read: Callable[[str, Any], np.ndarray], originals: Any, reconstructed: Any
) -> tuple[np.ndarray, np.ndarray]:
    pair = read("originals", originals), read("reconstructed", reconstructed)
    if pair[0].shape != pair[1].shape:
        checks.refuse(
            "reconstructed's shape", str(pair[1].shape), f"that of originals, {pair[0].shape}"
        )
    return pair


def _strips(
    axes: Any, images: Any, num_rows: int, rows: Names, ends: tuple[float, float], **labels: str
) -> Figure:
    """Rows of images whose columns are named by equally spaced values between `ends`."""
    pixels = _pixels("images", images)
    num_steps, rest = divmod(len(pixels), checks.integer("number of rows", num_rows))
    if rest:
        checks.refuse(
            "images", f"{len(pixels)} images", f"a multiple of the number of rows, {num_rows}"
        )
    return _tiles(axes, pixels, num_steps, rows, _values(np.linspace(*ends, num_steps)), **labels)


def _quantiles(n: int, inverse_cdf: InverseCDF) -> Tensor:
    probabilities = (
        torch.arange(checks.integer("points_per_side", n), dtype=torch.float64) + 0.5
    ) / n
    quantiles = (inverse_cdf or torch.special.ndtri)(probabilities).detach()
    if quantiles.shape != (n,) or not quantiles.isfinite().all() or (quantiles.diff() < 0).any():
        checks.refuse(
            "inverse_cdf's values", str(quantiles.tolist()), f"{n} finite numbers that rise"
        )
    return quantiles


def _whole_rows(pixels: np.ndarray, columns: int) -> np.ndarray:
    """(R, columns, H, W, C): the images row by row, white ones added at the end to fill the last
    row.
    """
    blank = np.ones((-len(pixels) % columns, *pixels.shape[1:]))
    return np.concatenate([pixels, blank]).reshape(-1, columns, *pixels.shape[1:])


def _tiles(
    axes: Any, pixels: np.ndarray, columns: int, left: Names = (), below: Names = (), **labels: str
) -> Figure:
    """All images as one picture; a tile is one unit wide and high from (0, 0), top left; `left`,
    `below` name them.
    """
    zoom = math.ceil(
        24 / max(pixels.shape[1:3])
    )  # so that the gap of one pixel is thin beside small images too
    framed = np.pad(
        np.kron(pixels, np.ones((1, zoom, zoom, 1))),
        [(0, 0), (0, 1), (0, 1), (0, 0)],
        constant_values=1.0,
    )
    tiles = _whole_rows(framed, checks.integer("columns", columns))
    rows, _, height, width, channels = tiles.shape
    inches, margins = min(0.7, 7 / columns), (0.9 if left else 0.1, 0.55 if below else 0.3)
    axes = _axes(axes, inches * columns + margins[0], inches * rows * height / width + margins[1])
    picture = tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    axes.imshow(
        picture, cmap="gray", vmin=0, vmax=1, extent=(0, columns, rows, 0), aspect=height / width
    )
    axes.set_xticks(np.arange(len(below)) + 0.5, below)
    axes.set_yticks(np.arange(len(left)) + 0.5, left)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(**labels)
    return axes.get_figure(root=True)


def _values(numbers: np.ndarray) -> list[str]:
    """Tick labels for `numbers`, about five of them; the others are blank."""
    step = math.ceil(len(numbers) / 6)
    rounded = numbers.round(2) + 0.0  # no -0
    return [
        f"{x:g}".replace("-", "\N{MINUS SIGN}") if i % step == 0 else ""
        for i, x in enumerate(rounded)
    ]


def _by_label(labels: Any, n: int) -> tuple[list[str], np.ndarray]:
    """The names of the distinct labels, and for each of n data the index of its own; one nameless
    label for None.
    """
    if labels is None:
        return [""], np.zeros(n, dtype=int)
    values = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if values.shape != (n,):
        checks.refuse("the labels' shape", str(values.shape), f"({n},), one a point")
    distinct, index = np.unique(values, return_inverse=True)
    if len(distinct) > len(PALETTE):
        checks.refuse(
            "the labels",
            f"{len(distinct)} distinct values",
            f"at most {len(PALETTE)}",
            "group them",
        )
    return [str(name) for name in distinct], index


def _scatter(axes: Any, points: np.ndarray, labels: Any, **names: str) -> Figure:
    """Points, (n, 2), as dots or, (n, 1), as a histogram; the legend stands beside, where it hides
    none of them.
    """
    distinct, index = _by_label(labels, len(points))
    if points.shape[1] == 1:
        parts = [points[index == k, 0] for k in range(len(distinct))]
        axes.hist(parts, bins=40, stacked=True, color=PALETTE[: len(parts)])
    else:  # one call, in the data's order: no label lies on top of the others
        size, color = float(np.clip(500 / math.sqrt(len(points)), 4, 25)), np.array(PALETTE)[index]
        axes.scatter(points[:, 0], points[:, 1], s=size, linewidths=0, alpha=0.8, color=color)
        axes.set_aspect("equal", adjustable="datalim")
    axes.set(**names)
    handles = [
        Patch(color=color, label=name)
        for color, name in zip(PALETTE, distinct, strict=False)
        if name
    ]
    if handles:
        axes.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            handlelength=0.8,
        )
    return axes.get_figure(root=True)


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """One line a column that holds a number, against the epoch (the row's number where none is
    given).
    """
    for k, (column, name) in enumerate(columns.items()):
        cells = [(row.get("epoch", i), row.get(column)) for i, row in enumerate(rows, start=1)]
        curve = np.array(
            [cell for cell in cells if not {None, ""} & set(cell)], dtype=float
        ).reshape(-1, 2)
        curve = curve[np.isfinite(curve).all(axis=1)]
        if len(curve):
            marker = "." if len(curve) <= 40 else ""
            axes.plot(*curve.T, color=PALETTE[k % len(PALETTE)], marker=marker, label=name)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes.transAxes)
