"""Options made from signatures: each field of `VAEConfig` and each argument of `fit` is a flag,
found by inspection.

Knows annotations, defaults and text. Must not know what an option does: a new field or argument
appears by itself.
"""

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae import checks
from ppl_vae.datasets import BINARIZATIONS, SPLITS
from ppl_vae.guides import POSTERIORS
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.networks import ACTIVATIONS, INITIALIZATIONS, NETWORK_OPTIONS, NETWORKS
from ppl_vae.priors import PRIORS
from ppl_vae.training import fit
from ppl_vae.vae import SLOTS, VAEConfig
from ppl_vae.weights import FAMILIES, SHARED_OPTIONS, WEIGHT_PRIORS

__all__ = [
    "Option",
    "add_option",
    "config_options",
    "fit_options",
    "source_options",
    "split_dotted",
]

# Arguments of `fit` that the command line gives in another way: as --data, --binarization, --out
# and --resume, or not at all.
GIVEN_BY_THE_RUN = ("vae", "data", "binarization", "checkpoint", "resume", "callbacks")
NUMBER = "a number, linear:start:end:epochs or stages:value:epoch:value"
# What the fields of `VAEConfig` mean, and those arguments of `fit` whose docstring is about Python
# rather than text.
MEANINGS = {
    "event_shape": "shape of one datum, if the data are to be reshaped, for example 784 or 1,28,28",
    "latent_size": "number of latent coordinates",
    "hidden_sizes": (
        "widths of the hidden layers from the data to z, for example 500,300; none: "
        "a linear network"
    ),
    "activation": ", ".join(ACTIVATIONS),
    "network": ", ".join(NETWORKS),
    "init": f"initial weights: {', '.join(INITIALIZATIONS)}",
    "output_start": (
        "where the decoder's outputs start: data (their mean and scale), zero, or auto: as the "
        "likelihood has it"
    ),
    "likelihood": f"{', '.join(LIKELIHOODS)}, or your own: file.py:Name or package.module:Name",
    "prior": f"{', '.join(PRIORS)}, or your own: file.py:Name or package.module:Name",
    "posterior": f"{', '.join(POSTERIORS)}, or your own: file.py:Name or package.module:Name",
    "weights": f"how network weights are Bayesian: none, {', '.join(FAMILIES)}",
    "validation": "compute the bound of held-out data after each epoch",
    "batch_size": "M, data a step",
    "epochs": "passes over the data",
    "kl_weight": (
        f"weight of KL(q(z|x) || p(z)): {NUMBER}, constrained:kl:20, constrained:reconstruction:-90"
    ),
    "weight_kl_weight": f"weight of KL(q(theta) || p(theta)), where weights are Bayesian: {NUMBER}",
    "learning_rate": f"step size: {NUMBER}",
    "corruption_level": f"how strong the corruption is: {NUMBER}",
    "max_gradient_norm": "the gradient of all parameters is scaled down to this norm",
    "parameter_average": "decay of the parameters' moving averages, used in evaluation, as 0.999",
    "weight_penalty": "lambda in lambda ||parameters||^2 / (2 N), counted once for all data",
    "seed": "fixes initial weights, data order and noise",
    "num_workers": "processes that read ahead, of data in files that stay on the disk",
    "checkpoint_every": "between two saved states: a number of epochs, '5000 steps', '10 minutes'",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One value that can be given: its name in Python, type, default value, meaning, and the
    default in words.
    """

    name: str
    annotation: Any
    default: Any
    meaning: str
    shown: str

    @property
    def flag(self) -> str:
        """`--latent-size`; for a dictionary of options `--prior.NAME`."""
        if is_dictionary(self.annotation):
            return f"--{self.name.removesuffix('_options')}.NAME"
        return f"--{self.name.replace('_', '-')}"


def source_options() -> list[Option]:
    """Where the data come from and where the run goes."""
    pixels = f"{', '.join(BINARIZATIONS)}; held-out pixels are drawn the same whatever --seed is"
    resume = (
        "go on with the run in this folder, with its own settings; --epochs may be raised, and "
        "--device be another"
    )
    names = (
        f"{', '.join(SPLITS)}, or a file of your own (.npy, .npz, .csv, .parquet), or a folder of "
        ".npy files"
    )
    new = "the run's folder, which must be new"
    return [
        Option("data", str, "digits", names, "digits"),
        Option("split", str, None, "how the data are split", "the data set's first"),
        Option("binarization", str, "none", pixels, "none"),
        Option("out", Path, None, new, "runs/DATA, numbered if taken"),
        Option("resume", Path, None, resume, "none"),
    ]


def config_options() -> list[Option]:
    """One option for each field of `VAEConfig`."""
    return [
        Option(f.name, f.type, f.default, _meaning(f.name), _default_in_words(f))
        for f in dataclasses.fields(VAEConfig)
    ]


def _default_in_words(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return _text(field.default)
    return "none" if is_dictionary(field.type) else "that of the data"


def _meaning(name: str) -> str:
    if name.endswith("_options"):
        kind = name.removesuffix("_options")
        known = "; ".join(
            f"{choice}: {', '.join(own)}" for choice, own in _own_options(kind).items() if own
        )
        return f"an option of the {kind}, once for each; {known}"
    return MEANINGS.get(name, name.replace("_", " "))


def _own_options(kind: str) -> Mapping[str, Sequence[str]]:
    """The options of each choice of a prior, network, likelihood, posterior or q(theta)."""
    slots = {slot.kind: slot for slot in SLOTS}
    if kind in slots:
        return slots[kind].option_names()
    if kind == "weights":
        families = {name: own for name, (_, own) in FAMILIES.items()}
        return {
            "any": SHARED_OPTIONS,
            **families,
            **{f"prior {n}": own for n, (_, own) in WEIGHT_PRIORS.items()},
        }
    return NETWORK_OPTIONS


def fit_options() -> list[Option]:
    """One option for each argument of `fit` that is not given by the run itself; meanings are its
    docstring's.
    """
    meanings = _argument_meanings(fit) | MEANINGS
    own = [p for p in inspect.signature(fit).parameters.values() if p.name not in GIVEN_BY_THE_RUN]
    # held-out data come with the data set: what is left to say is whether to use them
    typed = [
        (p.name, *((bool, True) if p.name == "validation" else (p.annotation, p.default)))
        for p in own
    ]
    return [
        Option(n, kind, d, meanings.get(n, n.replace("_", " ")), _text(d)) for n, kind, d in typed
    ]


def _argument_meanings(function: Callable[..., Any]) -> dict[str, str]:
    """The entries "name, name: meaning" of a docstring's section Args."""
    section = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(
        r"^ {4}([a-z]\w*(?:, \w+)*): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE
    )
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def add_option(parser: Any, option: Option) -> None:
    """Declare an option. It has no default of its own, so that what was given can be told from what
    was not.
    """
    about = f"{option.meaning.rstrip('.')} (default: {option.shown})".replace("%", "%%")
    if option.annotation is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(option.flag, action=action, default=argparse.SUPPRESS, help=about)
    else:
        read, word = (
            (str, "VALUE") if is_dictionary(option.annotation) else reader(option.annotation)
        )
        parser.add_argument(
            option.flag,
            dest=option.name,
            type=read,
            metavar=word,
            default=argparse.SUPPRESS,
            help=about,
        )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def is_dictionary(annotation: Any) -> bool:
    """Whether values of this type are given one by one, as dotted flags."""
    kinds = [annotation, *typing.get_args(annotation)]
    return any(typing.get_origin(kind) is Mapping for kind in kinds)


def reader(annotation: Any) -> tuple[Callable[[str], Any], str]:
    """A function from text to a value of the annotated type, and the word that stands for the value
    in a help text.
    """
    if typing.get_origin(annotation) is tuple:
        return _integers, "N,N"
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    kinds = typing.get_args(annotation) if union else (annotation,)
    if Path in kinds:
        return Path, "FOLDER"
    if int in kinds or float in kinds:
        number, word = (float, "NUMBER") if float in kinds else (int, "N")
        return _number(number, str in kinds, type(None) in kinds), word
    return (_text_or_none if type(None) in kinds else str), "NAME"


def _integers(text: str) -> tuple[int, ...]:
    try:
        return (
            tuple(int(part) for part in text.split(",") if part)
            if text not in ("none", "()")
            else ()
        )
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected integers with commas between them"
        ) from None


def _number(kind: type, or_text: bool, or_none: bool) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if or_none and text == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            if or_text:
                return text
            word = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"got '{text}', expected {word}") from None

    return read


def _text_or_none(text: str) -> str | None:
    return None if text == "none" else text


def split_dotted(
    argv: Sequence[str], options: Sequence[Option]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take the dotted flags out of `argv`: (the rest, {"prior_options": {"components": 500}}).

    `--prior.components 500` and `--prior.components=500` are the same; `32,64` is a tuple.
    `InputError` for a flag without a value.
    """
    fields = {o.flag.removesuffix("NAME"): o.name for o in options if is_dictionary(o.annotation)}
    rest: list[str] = []
    dotted: dict[str, dict[str, Any]] = {}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        prefix = flag[: flag.find(".") + 1]
        if prefix not in fields:
            rest.append(word)
            continue
        value = value if equals else next(words, "--")
        if value.startswith("--") or flag == prefix:
            checks.refuse(
                flag,
                "no value" if value.startswith("--") else "no name",
                "a flag such as --prior.name 3",
            )
        dotted.setdefault(fields[prefix], {})[flag.removeprefix(prefix).replace("-", "_")] = (
            _literal(value)
        )
    return rest, dotted


def _literal(text: str) -> Any:
    """The number, truth value, None, tuple or string that `text` looks like."""
    if "," in text:
        return tuple(_literal(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
