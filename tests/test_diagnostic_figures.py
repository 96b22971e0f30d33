"""Figures of diagnostics show the numbers they are given.

Knows the figures; must not know any model.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from ppl_vae.diagnostics import (
    Calibration,
    PredictiveCheck,
    calibration_figure,
    pareto_k_figure,
    predictive_figure,
    signal_to_noise_figure,
)


def test_uniform_ranks_stay_in_the_band_and_others_leave_it() -> None:
    """Ranks 0..99 once each are uniform to half a rank; their squares are not."""
    ranks = torch.arange(100)
    axes = calibration_figure(
        Calibration(torch.stack([ranks, ranks**2 // 100], 1), 99, ("a", "b"))
    ).axes[0]
    band = axes.patches[0].get_height() / 2
    uniform, squared = (line.get_ydata() for line in axes.lines)
    assert np.abs(uniform).max() < 0.01 and np.abs(squared).max() > band > 0.1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["an exact q, 99 %", "b"]


def test_a_predictive_check_is_a_histogram_with_the_observed_value() -> None:
    check = PredictiveCheck(3.0, torch.arange(50.0))
    panel = predictive_figure({"mean": check, "other": check}).axes[1]
    assert sum(patch.get_height() for patch in panel.patches) == 50
    assert panel.lines[0].get_xdata()[0] == 3.0 and panel.get_xlabel() == "other"


def test_pareto_k_rises_and_infinite_values_are_shown_at_the_top() -> None:
    axes = Figure().subplots()
    figure = pareto_k_figure(torch.tensor([0.9, float("inf"), 0.1]), axes=axes)
    assert figure is axes.get_figure() and np.allclose(axes.lines[0].get_ydata(), [0.1, 0.9, 3.0])


def test_signal_to_noise_is_a_distribution_function_in_decibels() -> None:
    """Ratios 0.1, 1 and 10 are -20, 0 and 20 dB."""
    axes = signal_to_noise_figure(
        {"w": torch.tensor([[10.0, 0.1, 1.0]]), "v": torch.zeros(2)}
    ).axes[0]
    x, y = axes.lines[0].get_data()
    assert np.allclose(x, [-20, 0, 20], atol=1e-5) and np.allclose(y, [0, 0.5, 1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["w", "v"]
