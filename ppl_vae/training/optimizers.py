"""One torch optimiser over all parameters, its fused kernel called directly.

Knows parameters and gradients; knows nothing of losses. `torch.optim`'s own `step` spends more time
in Python than the kernel does in a small model, so the kernel is called on state kept in the
optimiser object, which a checkpoint saves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_vae import checks

__all__ = ["OPTIMIZERS", "Update", "laid_out"]


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


class Update:
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
        for p in self.parameters:
            p.data = p.data.contiguous()
        self.optimizer: torch.optim.Optimizer = self._kind.make(self.parameters, weight_decay)
        self._group = self.optimizer.param_groups[0]
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
        made = 1 if failed is None else 1 - failed
        torch._foreach_add_(self._state[0], made)
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

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors given by `state` back in."""
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
