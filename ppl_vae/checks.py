"""Checks of what a user gives, numbers and tensors, in the voice of `wording.py`.

Knows nothing of models. Every other room raises through `refuse` or one of the checks built on it,
so that the command line can turn any bad value into one line and exit status 2.
"""

import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_vae.wording import InputError, nearest, refuse

__all__ = ["InputError", "nearest", "refuse"]

LARGEST = (
    1e15  # of a value of data: squares of such numbers can still be added up in single precision
)
LARGEST_INTEGER = 2**63 - 1
GREY_LEVELS = torch.arange(256.0) / 255


def choice(subject: str, value: object, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`."""
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        refuse(subject, repr(value), "one of " + ", ".join(names), nearest(str(value), names))
    return value


def integer(subject: str, value: object, minimum: int = 1) -> int:
    """`value` as an int if it is an integer, numpy's included (not a bool), of at least `minimum`
    and of no more than the 64 bits that sizes and counts have.
    """
    whole = _integer_from(minimum, subject, value)
    if whole > LARGEST_INTEGER:
        refuse(subject, f"about 2^{whole.bit_length() - 1}", "an integer below 2^63")
    return whole


def _integer_from(minimum: int, subject: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        refuse(subject, repr(value), f"an integer >= {minimum}")
    return int(value)


def seed(value: object, subject: str = "seed") -> int:
    """`value` if it is an integer from 0 to 2^32 - 1: what generators take, with room for epochs
    and ranks.
    """
    number = _integer_from(0, subject, value)
    if number >= 2**32:
        refuse(subject, repr(value), "an integer from 0 to 4294967295")
    return number


def truth(subject: str, value: object) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool):
        refuse(subject, repr(value), "True or False")
    return value


def number(
    subject: str,
    value: object,
    minimum: float = -math.inf,
    exclusive: bool = False,
    maximum: float = math.inf,
) -> float:
    """`value` as a float if it is finite, at least (or, `exclusive`, above) `minimum` and at most
    `maximum`.
    """
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and _is_finite(value)
    if not good or not minimum <= value <= maximum or (exclusive and value == minimum):  # type: ignore[operator]
        expected = "a finite number"
        if minimum > -math.inf:
            expected += f" {'>' if exclusive else '>='} {minimum:g}"
        if maximum < math.inf:
            expected += f" and at most {maximum:g}"
        refuse(subject, repr(value), expected)
    return float(value)  # type: ignore[arg-type]


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floating point numbers
        return False


def path(subject: str, value: object) -> Path:
    """`value` as a path."""
    if not isinstance(value, str | os.PathLike):
        refuse(subject, repr(value), "a path")
    if "\0" in os.fsdecode(value):
        refuse(subject, repr(value), "a path without a NUL character")
    return Path(value)


def sizes(subject: str, value: object) -> tuple[int, ...]:
    """`value` as a tuple of positive integers; a single integer counts as a tuple of one."""
    items = (value,) if isinstance(value, numbers.Integral) else value
    if not isinstance(items, Sequence) or isinstance(items, str | bytes | bytearray):
        refuse(subject, repr(value), "a sequence of positive integers")
    return tuple(integer(f"{subject}[{i}]", item) for i, item in enumerate(items))


def options(subject: str, value: object, known: Iterable[str] | None) -> None:
    """`value` is a mapping from names, each of them (unless it is None) one of `known`."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        refuse(subject, repr(value), "a mapping from names to values")
    names = list(value if known is None else known)
    for key in value:
        if key not in names:
            refuse(
                subject,
                repr(key),
                f"one of {', '.join(names)}" if names else "no option",
                nearest(key, names),
            )


def data(
    subject: str,
    x: object,
    event_shape: tuple[int, ...],
    minimum_rows: int = 1,
    integers: bool = False,
    gaps: bool = False,
) -> torch.Tensor:
    """`x` as data: a finite float tensor (N, *event_shape) with N >= `minimum_rows`; with
    `integers`, counts of any integer type are data too, with `gaps`, NaN is what was not observed.
    """
    if not isinstance(x, torch.Tensor):
        parts = isinstance(getattr(x, "train", None), torch.Tensor)  # a data set
        hint = (
            "give one of its tensors, such as data.train"
            if parts
            else "torch.as_tensor(..., dtype=torch.float32)"
        )
        refuse(subject, type(x).__name__, "a torch.Tensor, an array or a frame", hint)
    if tuple(x.shape[1:]) != event_shape or x.dim() != len(event_shape) + 1:
        shape = f"(N, {', '.join(map(str, event_shape))})"
        hint = _shape_hint(tuple(x.shape), event_shape)
        refuse(f"{subject}'s shape", str(tuple(x.shape)), shape, hint)
    if len(x) < minimum_rows:
        refuse(f"{subject}'s number of rows", len(x), f"at least {minimum_rows}")
    if integers and not x.is_floating_point() and not x.is_complex():
        return dense(subject, x)
    return finite(subject, x, gaps)


def _shape_hint(shape: tuple[int, ...], event_shape: tuple[int, ...]) -> str:
    """What makes data of this shape data of that event shape."""
    rest, sizes_ = shape[1:], ", ".join(map(str, event_shape))
    if len(event_shape) > 1 and rest == (*event_shape[1:], event_shape[0]):
        return "use np.moveaxis(x, -1, 1), or x.movedim(-1, 1) of a tensor: channels come first"
    if event_shape == (1, *rest):
        return "use x[:, None]"
    if rest == (1, *event_shape):
        return "use x[:, 0]"
    if shape == event_shape:
        return f"use x.reshape(-1, {sizes_}) or x[None] for a single datum"
    if len(shape) == 2 and shape[:1] == event_shape:
        return "use x.T: a datum is a row"
    if math.prod(rest) == math.prod(event_shape) or math.prod(shape) % math.prod(event_shape) == 0:
        return f"use x.reshape(-1, {sizes_})"
    return f"build the VAE with event_shape={rest}"


def latents(subject: str, z: object, latent_size: int, like: torch.Tensor) -> torch.Tensor:
    """`z` in the precision and on the device of `like`: a tensor (*, latent_size) of finite
    numbers.

    Integers and truth values, the codes of binary priors, are numbers, too.
    """
    if not isinstance(z, torch.Tensor) or z.shape[-1:] != (latent_size,):
        got = str(tuple(z.shape)) if isinstance(z, torch.Tensor) else type(z).__name__
        refuse(f"{subject}'s shape", got, f"a tensor (*, {latent_size}), the latent_size")
    if z.is_complex():
        refuse(f"{subject}'s dtype", str(z.dtype), "real numbers")
    moved = dense(subject, z).to(like)
    finite(subject, moved.detach().reshape(-1, latent_size))
    return moved


def dense(subject: str, x: torch.Tensor) -> torch.Tensor:
    """`x` if it is an ordinary tensor, neither a sparse one nor one without values."""
    if x.is_meta:
        refuse(f"{subject}'s device", "meta", "a tensor with values", "read the data anew")
    if x.layout is not torch.strided:
        refuse(f"{subject}'s layout", str(x.layout), "a dense tensor", "use x.to_dense()")
    return x


def finite(subject: str, x: torch.Tensor, gaps: bool = False) -> torch.Tensor:
    """`x` if it is uint8, or floating point and neither NaN, unless there may be `gaps`, nor
    infinite nor too large; looked at block by block.
    """
    dense(subject, x)
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        refuse(
            f"{subject}'s dtype",
            str(x.dtype),
            "floating point, or uint8 pixels",
            "use x.float(), of an array x.astype('float32')",
        )
    for start, rows in _blocks(x):
        bad = rows.isinf() if gaps else ~torch.isfinite(rows)
        if bad.any():
            got = f"{int(bad.sum())} NaN or infinite values from row {start + _first(bad)} on"
            hint = "drop them; if NaN was not observed, VAEConfig(missing=True), or --missing"
            refuse(subject, got, "finite numbers", hint)
        large = rows.abs() > LARGEST
        if large.any():
            got = f"values beyond {LARGEST:g} from row {start + _first(large)} on"
            refuse(subject, got, "numbers whose squares can be added up", "rescale x")
    return x


def inside(
    subject: str, x: torch.Tensor, support: Constraint, owner: str, integers: bool = False
) -> torch.Tensor:
    """`x` if all of it lies in `support`, which is what `owner` is defined on.

    Bytes are grey levels, k / 255, unless `integers` are data as they are. Where each column of a
    table has a support of its own, the refusal names the column.
    """
    if isinstance(support, constraints.stack):
        for column, own in enumerate(support.cseq):
            values = x.select(support.dim, column)
            inside(f"{subject}, column {column}", values, own, owner, integers)
        return x
    hint = "rescale x, or use a normal likelihood"
    if integers:
        hint = "remove or recode these rows, or use a likelihood of such numbers"
    grey = x.dtype == torch.uint8 and not integers
    if support is constraints.real or (grey and bool(support.check(GREY_LEVELS).all())):
        return x
    for start, rows in _blocks(x):
        wrong = ~support.check(rows / 255 if grey else rows) & ~rows.isnan()
        if wrong.any():
            where = in_words(support)
            got = f"values outside {where} from row {start + _first(wrong)} on"
            refuse(
                f"{subject} for {owner}",
                got,
                "values inside",
                hint,
            )
    return x


def on_unit_interval(support: Constraint) -> bool:
    """Whether a support is [0, 1], the numbers that grey levels are, and not {0, 1} of it."""
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return not support.is_discrete and (low, high) == (0, 1)


def in_words(support: Constraint) -> str:
    """Where the numbers of a support lie."""
    low = getattr(support, "lower_bound", None)
    high = getattr(support, "upper_bound", None)
    numbers_ = "whole numbers" if support.is_discrete else "numbers"
    if support is constraints.boolean:
        return "{0, 1}"
    if low is not None and high is not None:
        whole = "whole numbers in " if support.is_discrete else ""
        return f"{whole}[{low:g}, {high:g}]"
    if low is not None:
        strict = isinstance(support, type(constraints.positive))
        return f"{numbers_} {'above' if strict else 'of at least'} {low:g}"
    return str(support)


def moved(subject: str, module: torch.nn.Module, device: object) -> torch.nn.Module:
    """`module` on a device; `InputError` for one that this machine has not."""
    if not isinstance(device, str | torch.device):
        refuse(subject, repr(device), "the name of a device, such as 'cpu' or 'cuda'")
    try:
        return module.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        refuse(subject, str(device), "one this machine has", str(error).partition("\n")[0])


def _first(rows: torch.Tensor) -> int:
    """The first row with a true value in it."""
    return int(rows.reshape(len(rows), -1).any(1).nonzero()[0])


def _blocks(x: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) of blocks small enough that data mapped from a disk are never held
    whole.
    """
    size = max(1, 4_000_000 // max(1, x[:1].numel()))
    return ((start, x[start : start + size]) for start in range(0, len(x), size))
