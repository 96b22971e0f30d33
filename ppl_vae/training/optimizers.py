"""One torch optimiser over all parameters: any of torch's, and two whose fused kernel is called
directly.

Knows parameters and gradients; knows nothing of losses. `torch.optim`'s own `step` spends more time
in Python than the kernel does in a small model, so for Adam and AdaGrad the kernel is called on
state kept in the optimiser object, which a checkpoint saves.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from ppl_vae import checks
from ppl_vae.parts.slot import Slot
from ppl_vae.parts.user_code import is_reference

__all__ = [
    "OPTIMIZERS",
    "FusedUpdate",
    "TorchUpdate",
    "Update",
    "averaged",
    "clip_factor",
    "clipped",
    "laid_out",
    "optimizer_text",
    "update_of",
    "use_averages",
]


def laid_out(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """The same gradients, each with the strides of its parameter; what has them is not copied.

    The fused kernels walk the memory of parameters, gradients and sums side by side, while a
    gradient may come as any view: transposed, expanded, or with its sign still to be taken.
    """
    return [
        g
        if g.stride() == p.stride() and not g.is_neg()
        else g.clone(memory_format=torch.contiguous_format).resolve_neg()
        for p, g in zip(parameters, gradients, strict=True)
    ]


class _Adam:
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p <- p - rate * m' / (sqrt(v') + eps), m'
    and v' unbiased.

    Source: Adam: A method for stochastic optimization (2015), algorithm 1.
    """

    keys = ("step", "exp_avg", "exp_avg_sq")
    options = ("betas", "eps")

    @staticmethod
    def make(
        parameters: list[Tensor], weight_decay: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, weight_decay=weight_decay, fused=True, **options)
        for p in parameters:  # torch fills this in at the first step only
            zeros = {key: torch.zeros_like(p) for key in _Adam.keys[1:]}
            optimizer.state[p] = {"step": torch.zeros((), device=p.device), **zeros}
        return optimizer

    @staticmethod
    def kernel(
        parameters: list,
        gradients: list,
        state: list[list[Tensor]],
        group: dict[str, Any],
        rate: Any,
        failed: Tensor | None,
    ) -> None:
        beta1, beta2 = group["betas"]
        fixed = {
            "weight_decay": group["weight_decay"],
            "eps": group["eps"],
            "amsgrad": False,
            "maximize": False,
        }
        torch._fused_adam_(
            parameters,
            gradients,
            state[1],
            state[2],
            [],
            state[0],
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            found_inf=failed,
            **fixed,
        )

    @staticmethod
    def formula(
        p: Tensor, g: Tensor, state: list[Tensor], group: dict[str, Any], rate: Tensor
    ) -> list[Tensor]:
        (beta1, beta2), (step, m, v) = group["betas"], state
        step, m, v = step + 1, m + (1 - beta1) * (g - m), beta2 * v + (1 - beta2) * g * g
        scale = (v / (1 - beta2**step)).sqrt() + group["eps"]
        return [p - rate / (1 - beta1**step) * m / scale, step, m, v]


class _Adagrad:
    """s <- s + g^2, p <- p - rate * g / (sqrt(s) + eps). Source: Adaptive subgradient methods
    (2011), figure 1.
    """

    keys = ("step", "sum")
    options = ("eps",)

    @staticmethod
    def make(
        parameters: list[Tensor], weight_decay: float, options: Mapping[str, Any]
    ) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, weight_decay=weight_decay, fused=True, **options)

    @staticmethod
    def kernel(
        parameters: list,
        gradients: list,
        state: list[list[Tensor]],
        group: dict[str, Any],
        rate: Any,
        failed: Tensor | None,
    ) -> None:
        fixed = {
            "lr_decay": 0.0,
            "weight_decay": group["weight_decay"],
            "eps": group["eps"],
            "maximize": False,
            "found_inf": failed,
        }
        torch._fused_adagrad_(parameters, gradients, state[1], state[0], lr=rate, **fixed)

    @staticmethod
    def formula(
        p: Tensor, g: Tensor, state: list[Tensor], group: dict[str, Any], rate: Tensor
    ) -> list[Tensor]:
        step, total = state[0] + 1, state[1] + g * g
        return [p - rate * g / (total.sqrt() + group["eps"]), step, total]


AVERAGED_STEPS = "averaged_steps"  # of an optimiser of torch, in a checkpoint
OPTIMIZERS: dict[str, Any] = {"adam": _Adam, "adagrad": _Adagrad}
OPTIMIZER = Slot("optimizer", OPTIMIZERS)


class Update(Protocol):
    """One step of an optimiser over all parameters, by gradients as `laid_out` gives them.

    `averages` are the parameters' exponential moving averages, one a parameter; empty where none
    are kept.
    """

    parameters: list[Tensor]

    @property
    def averages(self) -> list[Tensor]:
        """a <- decay a + (1 - decay) p after each step, a = p after the first."""

    def __call__(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float | Tensor,
        failed: Tensor | None = None,
    ) -> None:
        """One step in place; none where `failed`, a scalar on the parameters' device, is 1."""

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, for a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors that `state` gave back; raises `KeyError` where they do not fit."""


def update_of(
    optimizer: Any,
    parameters: Sequence[Tensor],
    weight_decay: float,
    options: Mapping[str, Any] | None = None,
    average: float | None = None,
) -> Update:
    """The update of an optimiser.

    Args:
        optimizer: "adam" or "adagrad", whose fused kernels are called directly, or what makes a
            `torch.optim.Optimizer` of a list of parameters: its class, a partial of it, or a
            reference to one, such as "torch.optim:AdamW".
        parameters: what is trained.
        weight_decay: lambda / N, in nats per datum and squared unit of a parameter.
        options: of the optimiser, by name: `betas` and `eps` of "adam", `eps` of "adagrad", or
            whatever a class of torch takes.
        average: decay of the parameters' moving averages; None keeps none.

    Raises:
        InputError: for what is no optimiser, and for an option it has not.
    """
    own = dict(options or {})
    if isinstance(optimizer, str) and is_reference(optimizer):
        optimizer = OPTIMIZER.find(optimizer, None)
    if isinstance(optimizer, str):
        return FusedUpdate(optimizer, parameters, weight_decay, own, average)
    make = functools.partial(optimizer, **own) if own and callable(optimizer) else optimizer
    return TorchUpdate(make, parameters, weight_decay, average)


def average_weight(step: Tensor, decay: float) -> Tensor:
    """How far an average goes towards its parameter: the whole way at the first step."""
    return torch.where(step == 1, 1.0, 1.0 - decay).to(step.dtype)


def optimizer_text(optimizer: Any) -> str:
    """An optimiser as a text, by which a resumed run is known to have the same one."""
    if isinstance(optimizer, str):
        return str(OPTIMIZER.reference(optimizer, None))
    if isinstance(optimizer, functools.partial):
        given = [repr(value) for value in optimizer.args]
        given += [f"{name}={value!r}" for name, value in sorted(optimizer.keywords.items())]
        return f"{optimizer_text(optimizer.func)}({', '.join(given)})"
    name = getattr(optimizer, "__qualname__", type(optimizer).__qualname__)
    return f"{optimizer.__module__}.{name}"


def _own_memory(parameters: Sequence[Tensor]) -> None:
    for p in parameters:
        p.data = p.data.contiguous()


class TorchUpdate:
    """theta <- optimiser(theta, gradient + weight_decay * theta), by the optimiser's own `step`.

    The learning rate is set in every parameter group before each step. A state that is no tensor,
    as some optimisers' count of steps, is kept as one in a checkpoint.
    """

    def __init__(
        self,
        make: Callable[[list[Tensor]], Any],
        parameters: Sequence[Tensor],
        weight_decay: float,
        average: float | None = None,
    ) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        _own_memory(self.parameters)
        self.optimizer = _made(make, self.parameters)
        self.average, self._steps = average, torch.zeros(())
        self._averages = [] if average is None else [p.detach().clone() for p in self.parameters]

    @property
    def averages(self) -> list[Tensor]:
        """The parameters' exponential moving averages; none where none are kept."""
        return self._averages

    @torch.no_grad()
    def __call__(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float | Tensor,
        failed: Tensor | None = None,
    ) -> None:
        """One step in place, by gradients as `laid_out` gives them."""
        if failed is not None and failed.item():
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g.add(p, alpha=self.weight_decay) if self.weight_decay else g
        with torch.enable_grad():
            self.optimizer.step()
        for p in self.parameters:
            p.grad = None
        if self.average is not None:
            self._steps += 1
            weight = average_weight(self._steps, self.average).item()
            torch._foreach_lerp_(self._averages, self.parameters, weight)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, for a checkpoint."""
        found = {}
        for i, p in enumerate(self.parameters):
            for key, value in self.optimizer.state.get(p, {}).items():
                if torch.is_tensor(value):
                    found[f"{key}.{i}"] = value
                elif isinstance(value, int | float):
                    kind = type(value).__name__
                    found[f"{kind}/{key}.{i}"] = torch.tensor(value, dtype=torch.float64)
        if self.average is not None:
            found[AVERAGED_STEPS] = self._steps
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors that `state` gave back."""
        kinds: dict[str, Callable[[float], Any]] = {"int": int, "float": float, "bool": bool}
        for name, tensor in tensors.items():
            if name == AVERAGED_STEPS:
                self._steps = tensor.clone()
                continue
            key, _, i = name.rpartition(".")
            kind, slash, plain = key.partition("/")
            p = self.parameters[int(i)]
            if slash:
                self.optimizer.state[p][plain] = kinds[kind](tensor.item())
                continue
            if tensor.dim() and tensor.shape != p.shape:
                raise KeyError(f"optimizer/{name} of another shape")
            self.optimizer.state[p][key] = tensor.to(self._place(key, p)).clone()

    def _place(self, key: str, p: Tensor) -> torch.device:
        """Where an optimiser of torch keeps a tensor: its count of steps on the processor, unless
        its kernels read it.
        """
        (group,) = [g for g in self.optimizer.param_groups if any(q is p for q in g["params"])]
        read = group.get("fused") or group.get("capturable")
        return p.device if key != "step" or read else torch.device("cpu")


def _made(make: Callable[[list[Tensor]], Any], parameters: list[Tensor]) -> torch.optim.Optimizer:
    expected = f"one of {', '.join(OPTIMIZERS)}, or a torch.optim class or a partial of it"
    hint = "as in optimizer=torch.optim.AdamW, its learning rate given to fit"
    if not callable(make) or isinstance(make, torch.optim.Optimizer):
        checks.refuse("optimizer", repr(make), expected, hint)
    if isinstance(make, PyroOptim):
        checks.refuse("optimizer", f"Pyro's wrapper of {make.pt_optim_constructor}", expected, hint)
    try:
        optimizer = make(parameters)
    except (AssertionError, TypeError, ValueError) as error:
        checks.refuse("optimizer", f"{optimizer_text(make)}: {error}", expected, hint)
    if not isinstance(optimizer, torch.optim.Optimizer):
        checks.refuse("optimizer", f"what makes a {type(optimizer).__name__}", expected, hint)
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        checks.refuse(
            "optimizer",
            f"{type(optimizer).__name__}, which evaluates the loss several times a step",
            "an optimiser that takes a step from one gradient",
        )
    return optimizer


class FusedUpdate:
    """theta <- optimiser(theta, gradient + weight_decay * theta), for all parameters in one kernel
    call.

    With `weight_decay` = lambda / N and a loss in nats per datum this is maximum a posteriori under
    N(0, 1/lambda) on every parameter, counted once for all data. The learning rate is given at each
    call, a number, or a tensor where the call is captured. Parameters that are views of other
    memory (transposed, expanded, sliced) get memory of their own, in the order of their indices.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[Tensor],
        weight_decay: float,
        options: Mapping[str, Any] | None = None,
        average: float | None = None,
    ) -> None:
        self._kind = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
        own = _checked_options(name, self._kind.options, options or {})
        self.parameters, self.average = list(parameters), average
        _own_memory(self.parameters)
        self.optimizer: torch.optim.Optimizer = self._kind.make(self.parameters, weight_decay, own)
        self._group = self.optimizer.param_groups[0]
        first = self.parameters[0]
        # on a GPU, captured or not, a step is given its rate in one precision
        self._rate = first.new_zeros((), dtype=torch.float32) if first.is_cuda else None
        self._keys = self._kind.keys
        if average is not None:
            self._keys = (*self._keys, "average")
            for p in self.parameters:
                self.optimizer.state[p]["average"] = p.detach().clone()
        self._read_state()

    @property
    def averages(self) -> list[Tensor]:
        """The parameters' exponential moving averages; none where none are kept."""
        return [] if self.average is None else self._state[-1]

    def _read_state(self) -> None:
        """Keep the optimiser's tensors in the lists the kernel takes: one list a key, one tensor a
        parameter.
        """
        state = self.optimizer.state
        self._state = [[state[p][key] for p in self.parameters] for key in self._keys]

    @torch.no_grad()
    def __call__(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float | Tensor,
        failed: Tensor | None = None,
    ) -> None:
        """One step in place, by gradients as `laid_out` gives them.

        Where `failed`, a scalar on the parameters' device, is 1, nothing changes: the kernel looks
        at it there, so that nobody has to wait for the device.
        """
        steps = self._state[0]
        torch._foreach_add_(steps, 1)
        if failed is not None:  # as a list: one scalar tensor would be read, which waits for it
            torch._foreach_sub_(steps, [failed] * len(steps))
        if self._rate is not None and not torch.is_tensor(learning_rate):
            learning_rate = self._rate.fill_(learning_rate)
        self._kind.kernel(
            self.parameters, list(gradients), self._state, self._group, learning_rate, failed
        )
        if self.average is not None:
            weight = average_weight(steps[0], self.average)
            if failed is not None:
                weight = weight * (1 - failed)
            for a, p in zip(self.averages, self.parameters, strict=True):
                a.lerp_(p, weight.to(p.dtype))

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, for a checkpoint."""
        keys = self._kind.keys
        return {
            f"{key}.{i}": t
            for key, part in zip(keys, self._state[: len(keys)], strict=True)
            for i, t in enumerate(part)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors given by `state` back in."""
        for name, tensor in self.state().items():
            if tensors[name].shape != tensor.shape:
                raise KeyError(f"optimizer/{name} of another shape")
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])

    @property
    def num_vectors(self) -> int:
        """How many tensors `flatten` returns."""
        return 1 + len(self._keys)

    def flatten(self) -> list[Tensor]:
        """[parameters, step, ...] as one vector each (step a scalar); the parameters and state
        become views of them.
        """
        flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        vectors = [torch.cat([t.reshape(-1) for t in part]) for part in self._state[1:]]
        step = self._state[0][0].clone()
        sizes = [p.numel() for p in self.parameters]
        for i, (p, own) in enumerate(zip(self.parameters, flat.split(sizes), strict=True)):
            p.data = own.view(p.shape)
            views = [vector.split(sizes)[i].view(p.shape) for vector in vectors]
            self.optimizer.state[p] = dict(zip(self._keys, [step, *views], strict=True))
        self._read_state()
        return [flat, step, *vectors]

    def unflatten(self) -> None:
        """Undo `flatten`: storage of its own for every parameter and every part of the state."""
        for p in self.parameters:
            p.data = p.data.clone()
            self.optimizer.state[p] = {key: t.clone() for key, t in self.optimizer.state[p].items()}
        self._read_state()

    def formula(
        self, vectors: Sequence[Tensor], gradient: Tensor, learning_rate: Tensor
    ) -> list[Tensor]:
        """The same step as tensor algebra on the vectors of `flatten`, for a graph."""
        decayed = gradient + self._group["weight_decay"] * vectors[0]
        state = list(vectors[1 : 1 + len(self._kind.keys)])
        updated = self._kind.formula(vectors[0], decayed, state, self._group, learning_rate)
        if self.average is not None:
            weight = average_weight(updated[1], self.average)
            updated.append(vectors[-1] + weight * (updated[0] - vectors[-1]))
        return updated


def _checked_options(name: str, known: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a named optimiser as its class takes them."""
    checks.options(f"option of optimizer {name}", options, known)
    found: dict[str, Any] = {}
    if "eps" in options:
        found["eps"] = checks.number("optimizer_options.eps", options["eps"], 0.0)
    if "betas" in options:
        betas = options["betas"]
        if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
            checks.refuse(
                "optimizer_options.betas", repr(betas), "two numbers, such as (0.9, 0.99)"
            )
        first, second = (checks.number("optimizer_options.betas", b, 0.0) for b in betas)
        for beta in (first, second):
            if beta >= 1.0:
                checks.refuse("optimizer_options.betas", beta, "numbers below 1")
        found["betas"] = first, second
    return found


def clipped(gradients: Sequence[Tensor], norm: Tensor, max_norm: float | None) -> Sequence[Tensor]:
    """The gradients, all multiplied by min(1, max_norm / (norm + 1e-6)), norm that of them all."""
    if max_norm is None:
        return gradients
    return torch._foreach_mul(list(gradients), clip_factor(norm, max_norm).to(gradients[0]))


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` has it."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


@torch.no_grad()
def use_averages(update: Update) -> None:
    """Put the parameters' moving averages, where they are kept, in their place."""
    for p, average in zip(update.parameters, update.averages):
        p.copy_(average)


@contextlib.contextmanager
def averaged(update: Update) -> Iterator[None]:
    """The parameters' moving averages, where they are kept, stand in for them inside the block."""
    before = [p.detach().clone() for p in update.parameters] if update.averages else []
    use_averages(update)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(update.parameters, before):
                p.copy_(value)
