"""Figures of diagnostics: results in, a matplotlib `Figure` out.

Knows the results of this room; runs no model, opens no file, changes no setting of matplotlib.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae.diagnostics.calibration import Calibration
from ppl_vae.diagnostics.predictive import PredictiveCheck
from ppl_vae.diagnostics.verdicts import Examination
from ppl_vae.plots import Picture

__all__ = [
    "calibration_figure",
    "examination_figures",
    "pareto_k_figure",
    "predictive_figure",
    "signal_to_noise_figure",
]

DATA, DRAWS, LIMIT = "#222222", "#332288", "#cc6677"
NAMED_COLOURS = ("#cc6677", "#44aa99", "#ddcc77", "#882255", "#88ccee")
LABELS = {
    "mean": "mean of all values",
    "between_data": "variance between data",
    "within_data": "deviation in a datum",
}


def calibration_figure(calibration: Calibration, *, axes: Axes | None = None) -> Figure:
    """F(u) - u, F the empirical distribution function of each latent's rank among draws of q,
    scaled to u in (0, 1).

    Inside the band an exact q stays with probability 0.99, all latents together. Below on the left
    and above on the right of 1/2: q is conservative; the other way round: overconfident; on one
    side of 0 alone: biased. The first five latents that leave the band are named.
    Source: Graphical test for discrete uniformity (2022), section 2.
    """
    axes = _axes(axes)
    u, band = calibration.uniform.sort(0).values.numpy(), calibration.band()
    steps = (np.arange(len(u)) + 0.5)[:, None] / len(u)
    axes.axhspan(-band, band, facecolor="0.9", edgecolor="0.6", label="an exact q, 99 %")
    outside = (calibration.deviation > band).numpy()
    named = np.flatnonzero(outside)[: len(NAMED_COLOURS)]
    for j, rank in enumerate(u.T):
        label = calibration.names[j] if j in named else None
        colour = LIMIT if outside[j] else DRAWS
        if label:
            colour = NAMED_COLOURS[list(named).index(j)]
        alpha = 1.0 if label else max(0.2, 1 / u.shape[1])
        ends = (
            np.concatenate([[0.0], rank, [1.0]]),
            np.concatenate([[0.0], steps[:, 0] - rank, [0.0]]),
        )
        axes.plot(
            *ends, linewidth=1.2 if outside[j] else 0.8, color=colour, alpha=alpha, label=label
        )
    axes.set(
        xlabel="rank among draws of q", ylabel="share of simulations below, minus rank", xlim=(0, 1)
    )
    axes.legend(loc="best")
    return axes.get_figure(root=True)  # type: ignore[return-value]


def predictive_figure(checks: Mapping[str, PredictiveCheck]) -> Figure:
    """One panel a statistic: its values in replicated data, and in the data themselves as a
    line.
    """
    figure = Picture(figsize=(3.4 * len(checks), 3.0), layout="constrained")
    panels = figure.subplots(1, len(checks), squeeze=False)[0]
    for panel, (name, check) in zip(panels, checks.items()):
        panel.hist(check.replicated.numpy(), bins=20, color=DRAWS, alpha=0.7, label="replicated")
        panel.axvline(check.observed, color=DATA, label="data")
        smallest = check.p_value <= 2 / (len(check.replicated) + 1)
        title = f"p {'<' if smallest else '='} {check.p_value:.2g}"
        panel.set(xlabel=LABELS.get(name, name.replace("_", " ")), yticks=[], title=title)
    panels[0].legend(frameon=False)
    return figure


def pareto_k_figure(k: Tensor, *, axes: Axes | None = None) -> Figure:
    """Pareto k of each datum (N,) in rising order; above 0.7 its importance weights cannot be
    averaged.
    """
    axes = _axes(axes)
    axes.plot(np.linspace(0, 1, len(k)), k.clamp(max=3.0).sort().values.numpy(), color=DRAWS)
    axes.axhline(0.7, color=LIMIT, linestyle="--", label="0.7")
    axes.set(xlabel="share of the data", ylabel="Pareto k (at most 3 shown)", xlim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    return axes.get_figure(root=True)  # type: ignore[return-value]


def signal_to_noise_figure(ratios: Mapping[str, Tensor], *, axes: Axes | None = None) -> Figure:
    """Share of each site's weights whose |mean| / standard deviation under q(theta) is below a
    value, in decibels.

    Left of 0 dB a weight's sign is hardly known, and setting it to zero costs little.
    Source: Weight uncertainty in neural networks (2015), section 5.1.
    """
    axes = _axes(axes)
    for name, ratio in ratios.items():
        decibels = 20 * ratio.detach().flatten().clamp(min=1e-4).log10().sort().values
        axes.plot(decibels.cpu().numpy(), np.linspace(0, 1, len(decibels)), label=name)
    axes.axvline(0.0, color=LIMIT, linestyle="--")
    axes.set(
        xlabel="signal-to-noise of a weight (dB)",
        ylabel="share of the weights below",
        ylim=(0, 1),
        xlim=(-40, None),
    )
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    return axes.get_figure(root=True)  # type: ignore[return-value]


def examination_figures(found: Examination) -> dict[str, Figure]:
    """What the checks were read from, by name; signal-to-noise where weights are random."""
    figures = {
        "pareto_k": pareto_k_figure(found.pareto_k),
        "calibration": calibration_figure(found.calibration),
        "predictive_checks": predictive_figure(found.predictive),
    }
    return figures | (
        {"signal_to_noise": signal_to_noise_figure(found.signal_to_noise)}
        if found.signal_to_noise
        else {}
    )


def _axes(axes: Axes | None) -> Axes:
    return Picture(figsize=(5.0, 3.6), layout="constrained").subplots() if axes is None else axes
