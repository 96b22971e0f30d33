"""Bayesian weights: which parameters of a network are random, their prior p(theta) and their guide
q(theta).

Knows torch modules and Pyro programs; knows nothing of data, latents or likelihoods.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.weights.distributions import LowRankNormal, MatrixNormal
from ppl_vae.weights.guides import ESTIMATORS, FAMILIES, WeightGuide
from ppl_vae.weights.priors import WEIGHT_PRIORS, WeightPrior
from ppl_vae.weights.selection import Weight, is_weight, release, select

__all__ = [
    "ESTIMATORS",
    "FAMILIES",
    "SHARED_OPTIONS",
    "WEIGHT_PRIORS",
    "WHERE",
    "LowRankNormal",
    "MatrixNormal",
    "Weight",
    "WeightGuide",
    "WeightPrior",
    "bayesian",
    "bayesian_pair",
    "check_options",
    "chosen_weights",
    "is_weight",
    "release",
    "select",
]

WHERE = ("decoder", "output", "all")
PLAIN = (
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
)  # layers that hand their weight to their product as it is
SHARED_OPTIONS = ("prior", "where", "biases", "initial_scale", "estimator")


def bayesian(
    module: nn.Module,
    prior: str = "unit_scale",
    where: Callable[[str, Tensor], bool] = is_weight,
    prefix: str = "",
    **options: float,
) -> WeightPrior:
    """Turn parameters of a module into sites of the program it returns.

    theta = program(), drawn before the plate of data is opened, is {prefix + name: W}; run the
    module at it by `handlers.call(module, theta, ...)` with the prefix taken off. The module's own
    parameters of those names are gone.

    Args:
        module: the module, which is changed.
        prior: the name of p(theta), one of `WEIGHT_PRIORS`.
        where: which parameters are chosen, (name, parameter) -> whether it is.
        prefix: what the names of the sites begin with.
        **options: the prior's.

    Returns:
        p(theta) as a Pyro program.

    Raises:
        InputError: for an unknown prior or option, or when no parameter is chosen.
    """
    program = WeightPrior(select(module, where, prefix), prior, **options)
    release(module, [weight.name.removeprefix(prefix) for weight in program.weights])
    return program


def check_options(family: str | None, options: Mapping[str, Any]) -> None:
    """Check `VAEConfig.weights` and its options.

    Args:
        family: the name of q(theta), one of `FAMILIES`; None for weights that are points.
        options: `VAEConfig.weights_options`.

    Raises:
        InputError: for an unknown name, and for an option that the family or its prior does not
            have.
    """
    if family is None:
        return checks.options("weights_options without weights", options, ())
    checks.choice("weights", family, FAMILIES)
    prior = checks.choice(
        "weights_options.prior", options.get("prior", "unit_scale"), WEIGHT_PRIORS
    )
    checks.options(
        "weights_options",
        options,
        [*SHARED_OPTIONS, *FAMILIES[family][1], *WEIGHT_PRIORS[prior][1]],
    )
    checks.choice("weights_options.where", options.get("where", "decoder"), WHERE)
    checks.choice("weights_options.estimator", options.get("estimator", "local"), ESTIMATORS)
    if not isinstance(options.get("biases", False), bool):
        checks.refuse("weights_options.biases", options["biases"], "true or false")


def bayesian_pair(
    family: str, options: Mapping[str, Any], decoder: nn.Module, posterior: nn.Module
) -> tuple[WeightPrior, WeightGuide]:
    """(p(theta), q(theta)) over the weights of an autoencoder, which leave decoder and encoder.

    Sites are named "decoder.<parameter>" and "posterior.<parameter>".

    Args:
        family: the name of q(theta), one of `FAMILIES`.
        options: `VAEConfig.weights_options`; `where` is "decoder" (every layer of
            `decoder.network`), "output" (its last layer) or "all" (the encoder too).
        decoder: the decoder, which is changed.
        posterior: the encoder's module, which is changed under "all".

    Raises:
        InputError: for a bad option.
    """
    rest = {name: value for name, value in options.items() if name not in SHARED_OPTIONS}
    own = {name: rest.pop(name) for name in FAMILIES[family][1] if name in rest}
    weights = chosen_weights(
        options.get("where", "decoder"), options.get("biases", False), decoder, posterior
    )
    prior = WeightPrior(weights, options.get("prior", "unit_scale"), **rest)
    guide = WeightGuide(
        prior, family, options.get("initial_scale", 0.3), options.get("estimator", "local"), **own
    )
    for module, prefix in ((decoder, "decoder."), (posterior, "posterior.")):
        release(module, [w.name.removeprefix(prefix) for w in weights if w.name.startswith(prefix)])
    return prior, guide


def chosen_weights(
    where: str, biases: bool, decoder: nn.Module, posterior: nn.Module
) -> list[Weight]:
    """The weights that are to be random, with their layers' biases if wanted.

    Of a guide those of plain layers alone: what it masks or slices before use (a flow's networks,
    the couplings of a full covariance) stays a point.

    Args:
        where: "decoder" (every layer of `decoder.network`), "output" (its last layer) or "all" (the
            encoder too).
        biases: whether biases are chosen, too.
        decoder: the decoder.
        posterior: the encoder's module.

    Raises:
        InputError: for an unknown `where`, for "all" with a guide that is no module, and where
            there is no such weight.
    """
    checks.choice("where", where, WHERE)
    network = _with_biases(
        decoder.get_submodule("network"), "decoder.network.", biases, lambda layer: True
    )
    if where == "output":
        last = [w for w in network if w.input_dim is not None][-1].name.rpartition(".")[0]
        return [w for w in network if w.name.startswith(f"{last}.")]
    if where == "all" and not isinstance(posterior, nn.Module):
        checks.refuse(
            "weights_options.where", "'all' with a guide that is no module", "'decoder' or 'output'"
        )
    plain = (
        _with_biases(posterior, "posterior.", biases, lambda layer: type(layer) in PLAIN)
        if where == "all"
        else []
    )
    return network + plain


def _with_biases(
    module: nn.Module, prefix: str, biases: bool, wanted: Callable[[nn.Module], bool]
) -> list[Weight]:
    """The weights of a module and, if wanted, the biases of the same layers: not the shifts of a
    normalisation.
    """
    matrices = {
        name
        for name, parameter in module.named_parameters()
        if is_weight(name, parameter) and wanted(module.get_submodule(name.rpartition(".")[0]))
    }
    if biases:
        matrices |= {
            name.removesuffix("weight") + "bias" for name in matrices if name.endswith("weight")
        }
    return select(module, lambda name, parameter: name in matrices, prefix)
