"""Figures of images, read back from their artists: which pixel stands in which tile, which code and
label it has.

Knows `plots` and matplotlib's artists; must not know any model: every array is made here.
"""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ppl_vae import plots
from ppl_vae.checks import InputError

SIDE = 30  # pixels; at this size images are not enlarged, so a tile is SIDE pixels and a gap of one


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(
        7, SIDE, SIDE - 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def tile(
    figure: Figure, row: int, column: int, height: int = SIDE, width: int = SIDE - 6
) -> np.ndarray:
    """The pixels drawn at a tile, without the gap at its right and lower edges."""
    picture = np.asarray(figure.axes[0].images[0].get_array())
    corner = row * (height + 1), column * (width + 1)
    return picture[corner[0] : corner[0] + height, corner[1] : corner[1] + width].squeeze()


def tick_labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_images_stand_in_reading_order_and_the_rest_is_white(images):
    figure = plots.image_grid(images, columns=3)
    for k, image in enumerate(images):
        np.testing.assert_array_equal(tile(figure, *divmod(k, 3)), image)
    for column in (1, 2):
        assert (tile(figure, 2, column) == 1).all()
    drawn = figure.axes[0].images[0]
    assert drawn.get_cmap().name == "gray" and drawn.get_clim() == (0, 1)
    assert list(figure.axes[0].get_xticks()) == list(figure.axes[0].get_yticks()) == []


def test_tiles_are_separated_by_one_white_line(images):
    picture = np.asarray(
        plots.image_grid(images * 0, columns=3).axes[0].images[0].get_array()
    ).squeeze()[: 2 * SIDE + 2]
    assert np.flatnonzero(picture[0] == 1).tolist() == [SIDE - 6, 2 * SIDE - 11, 3 * SIDE - 16]
    assert np.flatnonzero(picture[:, 0] == 1).tolist() == [SIDE, 2 * SIDE + 1]


def test_the_default_grid_is_as_square_as_the_number_of_images_allows(images):
    left, right, bottom, top = plots.image_grid(images).axes[0].images[0].get_extent()
    assert (right - left, bottom - top) == (3, 3)


def test_pixels_keep_their_proportions(images):
    axes = plots.image_grid(images).axes[0]
    assert axes.get_aspect() == (SIDE + 1) / (SIDE - 6 + 1)


def test_small_images_are_enlarged_without_mixing_pixels():
    image = torch.arange(64.0).reshape(1, 8, 8) / 64
    enlarged = tile(plots.image_grid(image), 0, 0, 24, 24)
    np.testing.assert_array_equal(enlarged, np.repeat(np.repeat(image[0].numpy(), 3, 0), 3, 1))


def test_channels_first_become_colours_and_one_channel_is_grey(images):
    colour = torch.stack([images, 1 - images, images / 2], dim=1)
    np.testing.assert_array_equal(
        tile(plots.image_grid(colour, columns=7), 0, 5), colour[5].movedim(0, -1)
    )
    np.testing.assert_array_equal(
        tile(plots.image_grid(images[:, None], columns=7), 0, 5), images[5]
    )


def test_bytes_are_shades_of_255():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(1, SIDE, 10)
    np.testing.assert_allclose(tile(plots.image_grid(pixels), 0, 0, SIDE, SIDE)[0, :3], [0, 0.2, 1])


def test_values_outside_the_unit_interval_are_clipped(images):
    np.testing.assert_array_equal(
        tile(plots.image_grid(3 * images - 1), 0, 0), (3 * images - 1)[0].clip(0, 1)
    )


@pytest.mark.parametrize(
    "batch",
    [
        torch.rand(5, 2),
        torch.rand(5, 2, 4, 4),
        torch.rand(0, 4, 4),
        torch.rand(4, 3, 2, 4, 4),
        torch.rand(5),
    ],
    ids=["points", "two channels", "no image", "five axes", "one axis"],
)
def test_what_is_not_a_batch_of_images_is_refused_in_words(batch):
    with pytest.raises(
        InputError,
        match=r"images's shape: got \(.*expected images, \(N, H, W\) or .*points_scatter",
    ):
        plots.image_grid(batch)


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.image_grid(torch.zeros(3, 4, 4, dtype=torch.int64)),
        lambda: plots.image_grid(torch.full((3, 4, 4), math.nan)),
        lambda: plots.image_grid(torch.zeros(3, 4, 4), columns=0),
        lambda: plots.reconstructions(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4)),
        lambda: plots.manifold(torch.zeros(8, 4, 4), 3),
        lambda: plots.manifold_grid(3, lambda p: -p),
        lambda: plots.manifold_grid(3, lambda p: p / 0),
        lambda: plots.manifold_grid(0),
        lambda: plots.traversals(torch.zeros(7, 4, 4), 2),
        lambda: plots.traversals(torch.zeros(6, 4, 4), 2, dimensions=[1]),
        lambda: plots.traversal_codes(torch.zeros(2), dimensions=[2]),
        lambda: plots.interpolation_codes(torch.zeros(2), torch.zeros(3), 4),
        lambda: plots.latent_scatter(torch.zeros(3)),
        lambda: plots.latent_scatter(torch.zeros(3, 2), torch.zeros(4)),
        lambda: plots.latent_scatter(torch.zeros(11, 2), torch.arange(11)),
        lambda: plots.points_scatter(torch.zeros(4, 3)),
        lambda: plots.training_curves([]),
    ],
)
def test_bad_input_gets_one_line(call):
    with pytest.raises(InputError) as refusal:
        call()
    assert "\n" not in str(refusal.value) and "expected" in str(refusal.value)


def test_a_figure_is_drawn_into_given_axes_and_matplotlib_is_left_as_it_was(images):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = Figure()
    first, second = figure.subplots(1, 2)
    open_figures = pyplot.get_fignums()
    assert plots.samples(images, axes=second) is figure
    assert plots.training_curves([{"lower_bound": -1.0}], axes=[first, second]) is figure
    plots.samples(images)
    assert (
        not first.images
        and len(second.images) == 1
        and first.lines
        and pyplot.get_fignums() == open_figures
    )


def test_samples_say_what_they_are(images):
    assert plots.samples(images).axes[0].get_title() == "Prior samples"


def test_every_original_stands_over_its_own_reconstruction(images):
    figure = plots.reconstructions(images, images / 2, columns=4)
    for k, image in enumerate(images):
        band, column = divmod(k, 4)
        np.testing.assert_array_equal(tile(figure, 2 * band, column), image)
        np.testing.assert_array_equal(tile(figure, 2 * band + 1, column), image / 2)
    axis = figure.axes[0].yaxis
    assert tick_labels(axis) == ["original", "reconstruction"] * 2 and list(
        axis.get_ticklocs()
    ) == [0.5, 1.5, 2.5, 3.5]


def test_fewer_images_than_columns_leave_no_empty_columns(images):
    assert plots.reconstructions(images, images).axes[0].images[0].get_extent()[1] == 7


def test_the_grid_is_the_normal_quantiles_at_centred_probabilities():
    """Phi^-1(1/10), ..., Phi^-1(9/10), from a table of the normal distribution."""
    grid = plots.manifold_grid(5)
    table = torch.tensor([-1.2815516, -0.5244005, 0.0, 0.5244005, 1.2815516])
    torch.testing.assert_close(grid[:5, 0], table)
    torch.testing.assert_close(grid[::5, 1], table)
    assert grid.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_the_grid_is_symmetric_rises_and_runs_fastest_along_the_first_coordinate(n):
    grid = plots.manifold_grid(n).reshape(n, n, 2)
    torch.testing.assert_close(grid, -grid.flip(0, 1))
    torch.testing.assert_close(grid, grid.transpose(0, 1).flip(-1))
    assert (grid[:, :, 0].diff(dim=1) > 0).all() and (grid[:, :, 0] == grid[:1, :, 0]).all()


def test_the_grid_holds_equal_masses_of_the_prior_it_is_given():
    prior = torch.distributions.Laplace(0.0, 2.0)
    masses = prior.cdf(plots.manifold_grid(4, prior.icdf)[:4, 0])
    torch.testing.assert_close(masses, torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_the_manifold_has_the_first_coordinate_to_the_right_and_the_second_upward():
    """Each image is painted with its own code's probabilities, so its place can be told from its
    grey.
    """
    probabilities = plots.manifold_grid(3, lambda p: p)
    for coordinate in (0, 1):
        shades = probabilities[:, coordinate, None, None].expand(-1, SIDE, SIDE - 6)
        figure = plots.manifold(shades, 3, lambda p: p)
        drawn = np.array(
            [[tile(figure, row, column)[0, 0] for column in range(3)] for row in range(3)]
        )
        rising = np.array([1, 3, 5]) / 6
        np.testing.assert_allclose(
            drawn, np.tile(rising, (3, 1)) if coordinate == 0 else np.tile(rising[::-1, None], 3)
        )


def test_the_manifold_is_labelled_in_units_of_z(images):
    axes = plots.manifold(images[:4], 2).axes[0]
    assert tick_labels(axes.xaxis) == ["−0.67", "0.67"] and tick_labels(axes.yaxis) == [
        "0.67",
        "−0.67",
    ]
    assert "z_1" in axes.get_xlabel() and "z_2" in axes.get_ylabel()


def test_a_large_manifold_names_few_of_its_ticks():
    axes = plots.manifold(torch.zeros(30 * 30, 2, 2), 30).axes[0]
    named = [k for k, name in enumerate(tick_labels(axes.xaxis)) if name]
    assert named == list(range(0, 30, 5)) and len(axes.get_xticks()) == 30


def test_a_traversal_changes_one_coordinate_from_end_to_end():
    center = torch.tensor([0.5, -1.0, 2.0])
    codes = plots.traversal_codes(center, num_steps=5, ends=(-2.0, 2.0)).reshape(3, 5, 3)
    for d in range(3):
        torch.testing.assert_close(codes[d, :, d], torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
        others = [k for k in range(3) if k != d]
        assert (codes[d][:, others] == center[others]).all()
    torch.testing.assert_close(
        plots.traversal_codes(center, 5, (-2.0, 2.0), [2, 0]), codes[[2, 0]].reshape(10, 3)
    )
    assert center.tolist() == [0.5, -1.0, 2.0]


def test_traversals_have_one_named_row_an_axis(images):
    figure = plots.traversals(images[:6], 2, ends=(-1.5, 1.5), dimensions=[4, 1])
    for k in range(6):
        np.testing.assert_array_equal(tile(figure, *divmod(k, 3)), images[k])
    axes = figure.axes[0]
    assert tick_labels(axes.yaxis) == ["$z_{5}$", "$z_{2}$"] and tick_labels(axes.xaxis) == [
        "−1.5",
        "0",
        "1.5",
    ]


def test_an_interpolation_is_the_straight_line_between_its_ends():
    start, end = torch.tensor([[0.0, 1.0], [4.0, 4.0]]), torch.tensor([[1.0, -1.0], [4.0, 0.0]])
    codes = plots.interpolation_codes(start, end, 5)
    torch.testing.assert_close(
        codes[:5], torch.tensor([[0, 1], [0.25, 0.5], [0.5, 0], [0.75, -0.5], [1, -1]])
    )
    torch.testing.assert_close(codes[5:, 1], torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]))
    torch.testing.assert_close(plots.interpolation_codes(start[0], end[0], 5), codes[:5])


def test_interpolations_are_labelled_by_the_weight_of_their_end(images):
    figure = plots.interpolations(images[:6], 2)
    np.testing.assert_array_equal(tile(figure, 1, 0), images[3])
    assert (
        tick_labels(figure.axes[0].xaxis) == ["0", "0.5", "1"]
        and tick_labels(figure.axes[0].yaxis) == []
    )
