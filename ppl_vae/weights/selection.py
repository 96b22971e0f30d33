"""Which parameters of a module are weights theta, and what has to be known of each.

Knows torch modules; knows nothing of distributions, of an autoencoder or of data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ppl_vae import checks
from ppl_vae.networks import TRANSPOSED, fan_in

__all__ = ["Weight", "is_weight", "release", "select"]

Predicate = Callable[[str, Tensor], bool]


@dataclass(frozen=True, eq=False)
class Weight:
    """One parameter that is a weight of theta.

    Args:
        name: its name.
        value: its value when it was chosen.
        fan_in: inputs that a unit of its layer sums over.
        input_dim: the dimension of `value` that runs over input units; None for a bias.
    """

    name: str
    value: Tensor
    fan_in: int
    input_dim: int | None


def is_weight(name: str, parameter: Tensor) -> bool:
    """Whether a parameter multiplies its layer's input: a matrix or a kernel.

    A bias, scale or shift is none. Nor is what `PyroParam` and `pyro.param` leave in a module: a
    program's own parameter, under no layer.

    Args:
        name: the parameter's dotted name.
        parameter: its value.
    """
    return parameter.dim() >= 2 and not name.endswith("_unconstrained")


def select(module: nn.Module, where: Predicate = is_weight, prefix: str = "") -> list[Weight]:
    """Parameters of a module as weights, in the module's order.

    Args:
        module: the module, which stays as it is.
        where: which parameters are chosen, (name, parameter) -> whether it is.
        prefix: what the names of the weights begin with, before those in the module.

    Raises:
        InputError: when there is none.
    """
    chosen = [
        _weight(f"{prefix}{name}", p, layer)
        for name, p, layer in _parameters(module)
        if where(name, p)
    ]
    if not chosen:
        checks.refuse(
            "weights",
            f"no parameter of {type(module).__name__} chosen",
            "at least one",
            "change `where`",
        )
    return chosen


def _parameters(module: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    for path, layer in module.named_modules():
        for name, parameter in layer.named_parameters(recurse=False):
            yield f"{path}.{name}" if path else name, parameter, layer


def _weight(name: str, parameter: Tensor, layer: nn.Module) -> Weight:
    kernel = getattr(layer, "weight", parameter)
    input_dim = None
    if parameter.dim() >= 2:
        input_dim = 0 if isinstance(layer, TRANSPOSED) else 1
    return Weight(name, parameter.detach().clone(), fan_in(layer, kernel), input_dim)


def release(module: nn.Module, names: list[str]) -> None:
    """Take parameters out of a module: no optimiser and no checkpoint then holds them.

    Theta's sites replace them. Their places stay, empty, for `torch.func.functional_call` to fill.

    Args:
        module: the module, which is changed.
        names: dotted names of the parameters.
    """
    for name in names:
        path, _, attribute = name.rpartition(".")
        layer = module.get_submodule(path)
        delattr(layer, attribute)
        layer.register_parameter(attribute, None)
