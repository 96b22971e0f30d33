"""One torch optimiser over all parameters: any of torch's, and two whose fused kernel is called
directly.

Knows parameters and gradients; knows nothing of losses. `torch.optim`'s own `step` spends more time
in Python than the kernel does in a small model, so for Adam and AdaGrad the kernel is called on
state kept in the optimiser object, which a checkpoint saves.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ppl_vae import checks

__all__ = [
    "OPTIMIZERS",
    "FusedUpdate",
    "TorchUpdate",
    "Update",
    "laid_out",
    "optimizer_text",
    "update_of",
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

    @staticmethod
    def make(parameters: list[Tensor], weight_decay: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, weight_decay=weight_decay, fused=True)
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

    @staticmethod
    def make(parameters: list[Tensor], weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, weight_decay=weight_decay, fused=True)

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


OPTIMIZERS: dict[str, Any] = {"adam": _Adam, "adagrad": _Adagrad}


class Update(Protocol):
    """One step of an optimiser over all parameters, by gradients as `laid_out` gives them."""

    parameters: list[Tensor]

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


def update_of(optimizer: Any, parameters: Sequence[Tensor], weight_decay: float) -> Update:
    """The update of an optimiser.

    Args:
        optimizer: "adam" or "adagrad", whose fused kernels are called directly, or what makes a
            `torch.optim.Optimizer` of a list of parameters: its class, or a partial of it.
        parameters: what is trained.
        weight_decay: lambda / N, in nats per datum and squared unit of a parameter.

    Raises:
        InputError: for what is no optimiser.
    """
    if isinstance(optimizer, str):
        return FusedUpdate(optimizer, parameters, weight_decay)
    return TorchUpdate(optimizer, parameters, weight_decay)


def optimizer_text(optimizer: Any) -> str:
    """An optimiser as a text, by which a resumed run is known to have the same one."""
    if isinstance(optimizer, str):
        return optimizer
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
    ) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        _own_memory(self.parameters)
        self.optimizer = _made(make, self.parameters)

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
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the tensors that `state` gave back."""
        kinds: dict[str, Callable[[float], Any]] = {"int": int, "float": float, "bool": bool}
        for name, tensor in tensors.items():
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
    try:
        optimizer = make(parameters)
    except (TypeError, ValueError) as error:
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

    def __init__(self, name: str, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self._kind = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
        self.parameters = list(parameters)
        _own_memory(self.parameters)
        self.optimizer: torch.optim.Optimizer = self._kind.make(self.parameters, weight_decay)
        self._group = self.optimizer.param_groups[0]
        first = self.parameters[0]
        # on a GPU, captured or not, a step is given its rate in one precision
        self._rate = first.new_zeros((), dtype=torch.float32) if first.is_cuda else None
        self._read_state()

    def _read_state(self) -> None:
        """Keep the optimiser's tensors in the lists the kernel takes: one list a key, one tensor a
        parameter.
        """
        state = self.optimizer.state
        self._state = [[state[p][key] for p in self.parameters] for key in self._kind.keys]

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

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, for a checkpoint."""
        keys = self._kind.keys
        return {
            f"{key}.{i}": t
            for key, part in zip(keys, self._state, strict=True)
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
        return 1 + len(self._kind.keys)

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
            self.optimizer.state[p] = dict(zip(self._kind.keys, [step, *views], strict=True))
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
        return self._kind.formula(
            vectors[0], decayed, list(vectors[1:]), self._group, learning_rate
        )
