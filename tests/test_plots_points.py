"""Figures of points and of histories, read back from their artists: which value stands where, in
which colour.

Knows `plots` and matplotlib's artists; must not know any model: every array is made here.
"""

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from ppl_vae import plots


def legend_colors(axes) -> dict[str, tuple]:
    legend = axes.get_legend()
    return {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(legend.texts, legend.get_patches())
    }


def test_a_point_has_the_colour_that_the_legend_gives_its_label():
    z, labels = (
        torch.randn(40, 2, generator=torch.Generator().manual_seed(1)),
        torch.arange(40) % 3 + 5,
    )
    axes = plots.latent_scatter(z, labels).axes[0]
    drawn, colors = axes.collections[0], legend_colors(axes)
    np.testing.assert_allclose(drawn.get_offsets(), z)
    assert list(colors) == ["5", "6", "7"] and len(set(colors.values())) == 3
    for label, color in zip(labels.tolist(), drawn.get_facecolors()):
        assert tuple(color[:3]) == colors[str(label)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_{1}$", "$z_{2}$")


def test_without_labels_there_is_one_colour_and_no_legend():
    axes = plots.latent_scatter(torch.randn(5, 2)).axes[0]
    assert (
        axes.get_legend() is None
        and len(np.unique(axes.collections[0].get_facecolors(), axis=0)) == 1
    )


def test_of_many_coordinates_the_two_of_largest_variance_are_drawn_and_named():
    scale = torch.tensor([1.0, 5.0, 0.1, 3.0])
    z = torch.tensor([[1.0], [-1.0]]) * scale
    axes = plots.latent_scatter(z).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), z[:, [1, 3]])
    assert (
        axes.get_xlabel() == "$z_{2}$ (variance 25)" and axes.get_ylabel() == "$z_{4}$ (variance 9)"
    )
    assert "two of 4" in axes.get_title()


def test_one_coordinate_is_a_histogram_stacked_by_label():
    axes = plots.latent_scatter(torch.tensor([[-1.0], [1.0]] * 30), ["a", "b", "b"] * 20).axes[0]
    counts = {name: 0.0 for name in legend_colors(axes)}
    for bar in axes.patches:
        counts[next(n for n, c in legend_colors(axes).items() if c == bar.get_facecolor()[:3])] += (
            bar.get_height()
        )
    assert counts == {"a": 20, "b": 40}
    assert max(bar.get_y() + bar.get_height() for bar in axes.patches) == 30
    assert axes.get_xlabel() == "$z_{1}$" and axes.get_ylabel() == "number of data"


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
# deficiency" (2009), severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, under D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = linear.clip(0, 1) @ np.transpose(matrix) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_stay_apart_under_colour_vision_deficiencies(deficiency):
    """A difference of 2.3 is just noticeable. At worst (protanopia): here 15.6, matplotlib's
    default cycle 4.6.
    """
    rgb = np.array([to_rgb(color) for color in plots.PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    colors = lab(linear @ np.transpose(DEFICIENCIES[deficiency]))
    distances = np.linalg.norm(colors[:, None] - colors, axis=-1)[np.triu_indices(len(colors), 1)]
    assert distances.min() > 15, distances.min()


def test_points_and_their_reconstructions_share_scale_and_colours():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    figure = plots.point_reconstructions(points, points / 2, ["a", "b", "a"])
    # when an equal aspect takes effect, which must not change the limits
    figure.draw_without_rendering()
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("Originals", "Reconstructions")
    np.testing.assert_allclose(left.collections[0].get_offsets(), points)
    np.testing.assert_allclose(right.collections[0].get_offsets(), points / 2)
    np.testing.assert_array_equal(
        left.collections[0].get_facecolors(), right.collections[0].get_facecolors()
    )
    for axes in (left, right):
        np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [[-0.05, 1.05]] * 2)
        assert axes.get_aspect() == 1 and axes.get_xlabel() == "$x_1$"


def test_identical_points_still_get_a_scale():
    figure = plots.point_reconstructions(torch.ones(3, 2), torch.ones(3, 2))
    np.testing.assert_allclose(figure.axes[0].get_xlim(), [0, 2])


def curves(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_training_curves_draw_each_column_against_the_epoch():
    rows = [
        {
            "epoch": 2,
            "lower_bound": -9.0,
            "validation_lower_bound": math.nan,
            "kl.z": 1.0,
            "kl_weights": 0.1,
            "seconds": 1,
        },
        {
            "epoch": 4,
            "lower_bound": -7.0,
            "validation_lower_bound": -8.0,
            "kl.z": 2.0,
            "kl.scale": 0.5,
            "kl_weights": 1,
        },
        {"epoch": 6, "lower_bound": -math.inf, "validation_lower_bound": -7.5, "kl.scale": None},
    ]
    bound, divergence = plots.training_curves(rows).axes
    assert curves(bound) == {"training": [[2, -9], [4, -7]], "validation": [[4, -8], [6, -7.5]]}
    assert curves(divergence) == {"z": [[2, 1], [4, 2]], "scale": [[4, 0.5]]}
    assert (
        bound.get_ylabel() == "lower bound (nats per datum)"
        and divergence.get_ylabel() == "KL (nats per datum)"
    )
    assert bound.get_xlabel() == divergence.get_xlabel() == "epoch"


def test_training_curves_read_text_count_rows_and_say_what_is_not_there():
    bound, divergence = plots.training_curves(
        [{"lower_bound": "-3.5", "kl.z": ""}, {"lower_bound": "-3"}]
    ).axes
    assert curves(bound) == {"training": [[1, -3.5], [2, -3]]}
    assert not divergence.lines and divergence.texts[0].get_text() == "not recorded"


@pytest.mark.parametrize("num_points", [10, 4000])
def test_figures_are_written_without_a_warning(num_points, tmp_path):
    z = torch.randn(num_points, 2, generator=torch.Generator().manual_seed(2))
    figures = [
        plots.latent_scatter(z, torch.arange(num_points) % 10),
        plots.point_reconstructions(z, z / 2, torch.arange(num_points) % 4),
        plots.manifold(torch.zeros(4, 8, 8), 2),
        plots.training_curves([{"epoch": 1, "lower_bound": -1.0}]),
    ]
    for k, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").stat().st_size > 1000
