"""What a word of the reports and options means, from the docstrings of what it stands for."""

import inspect
import pkgutil
from argparse import Namespace
from typing import Any

from ppl_vae.wording import nearest, refuse

__all__ = ["TERMS", "explain", "explanation"]

# word -> where the docstring is; the library's own parts are words too, by their names
TERMS = {
    "estimator-a": "ppl_vae.elbo:SampledELBO",
    "estimator-b": "ppl_vae.elbo:MeanFieldELBO",
    "iwae": "ppl_vae.elbo:ImportanceWeightedELBO",
    "renyi": "ppl_vae.elbo:ImportanceWeightedELBO",
    "dreg": "ppl_vae.elbo:DoublyReparameterizedELBO",
    "kl-balance": "ppl_vae.elbo:BalancedELBO",
    "lower-bound": "ppl_vae.evaluation:lower_bound",
    "kl": "ppl_vae.elbo:KL",
    "kl-kinds": "ppl_vae.elbo:kl_report",
    "kl-weight": "ppl_vae.handlers.kl_weight:KLWeight",
    "log-likelihood": "ppl_vae.evaluation:log_likelihood",
    "importance": "ppl_vae.evaluation.importance:importance",
    "annealed": "ppl_vae.evaluation.annealed:annealed",
    "reciprocal": "ppl_vae.evaluation.reciprocal:reciprocal",
    "quadrature": "ppl_vae.evaluation.quadrature:quadrature",
    "prior-share": "ppl_vae.evaluation.importance:importance",
    "pareto-k": "ppl_vae.evaluation.pareto:pareto_k",
    "active-units": "ppl_vae.evaluation:active_units",
    "reconstruction-error": "ppl_vae.evaluation:reconstruction_error",
    "inference-gaps": "ppl_vae.evaluation:inference_gaps",
    "calibration": "ppl_vae.diagnostics:simulation_based_calibration",
    "coverage": "ppl_vae.diagnostics.calibration:Calibration.coverage",
    "predictive": "ppl_vae.diagnostics:posterior_predictive_check",
    "unsure-weights": "ppl_vae.diagnostics:weight_signal_to_noise",
    "elpd": "ppl_vae.diagnostics:to_elpd",
    "posterior.nc": "ppl_vae.diagnostics:to_inference_data",
    "fit": "ppl_vae.training:fit",
}


def explain(given: Namespace) -> int:
    """Print what the word means, or all words."""
    if given.term is None:
        print("one of:", *sorted(_words()), sep="\n  ")
    else:
        print(explanation(given.term))
    return 0


def explanation(term: str) -> str:
    """What a word means: the docstrings of all that it stands for as plain text, and where they
    are.
    """
    words = _words()
    name = _word(term.strip().lower())
    if name not in words:
        refuse("TERM", f"'{term}'", "a word that explain lists", nearest(name, words))
    return "\n\n\n".join(_text(name, found) for found in words[name])


def _text(name: str, found: Any) -> str:
    text = (inspect.getdoc(found) or "").partition("\n>>> ")[0].rstrip()
    return f"{name}: {found.__module__}.{found.__qualname__}\n\n{text.replace('`', '')}"


def _word(name: str) -> str:
    return name.replace("_", "-").replace(" ", "-")


def _words() -> dict[str, list[Any]]:
    """Every word and what it stands for: the terms, and the library's own parts by their names,
    which a prior and a posterior may share.
    """
    from ppl_vae.vae import SLOTS

    words = {name: [pkgutil.resolve_name(place)] for name, place in TERMS.items()}
    for slot in SLOTS:
        for name, part in slot.builtin.items():
            if inspect.getdoc(part):
                words.setdefault(_word(name), []).append(part)
    return words
