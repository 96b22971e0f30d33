"""One torch optimiser over all parameters, its fused kernel called directly.

Knows parameters and gradients; knows nothing of losses. `torch.optim`'s own `step` spends more time in Python than the
kernel does in a small model, so the kernel is called on state kept in the optimiser object, which a checkpoint saves.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ppl_vae import checks

__all__ = ["OPTIMIZERS", "Update"]


def _adam(parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    for p in parameters:  # torch fills this in at the first step only
        optimizer.state[p] = {
            "step": torch.zeros((), device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def _adagrad(parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _adam_kernel(parameters: list, gradients: list, state: list[list[Tensor]], group: dict) -> None:
    beta1, beta2 = group["betas"]
    torch._fused_adam_(parameters, gradients, state[1], state[2], [], state[0], lr=group["lr"], beta1=beta1, beta2=beta2,
                       weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False)  # fmt: skip


def _adagrad_kernel(parameters: list, gradients: list, state: list[list[Tensor]], group: dict) -> None:
    torch._fused_adagrad_(parameters, gradients, state[1], state[0], lr=group["lr"], lr_decay=0.0,
                          weight_decay=group["weight_decay"], eps=group["eps"], maximize=False)  # fmt: skip


OPTIMIZERS: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "adam": (_adam, _adam_kernel, ("step", "exp_avg", "exp_avg_sq")),
    "adagrad": (_adagrad, _adagrad_kernel, ("step", "sum")),
}


class Update:
    """theta <- optimiser(theta, gradient + weight_decay * theta), for all parameters in one kernel call.

    With `weight_decay` = lambda / N and a loss in nats per datum this is maximum a posteriori under N(0, 1/lambda)
    on every parameter, counted once for all data.
    """

    def __init__(self, name: str, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> None:
        make, self._kernel, keys = OPTIMIZERS[checks.choice("optimizer", name, OPTIMIZERS)]
        self.parameters = list(parameters)
        self.optimizer: torch.optim.Optimizer = make(self.parameters, learning_rate, weight_decay)
        self._group = self.optimizer.param_groups[0]
        self._state = [[self.optimizer.state[p][key] for p in self.parameters] for key in keys]
        self._keys = keys

    @torch.no_grad()
    def __call__(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """One step in place."""
        self._group["lr"] = learning_rate
        torch._foreach_add_(self._state[0], 1)
        self._kernel(self.parameters, list(gradients), self._state, self._group)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by name, for a checkpoint."""
        return {f"{key}.{i}": t for key, part in zip(self._keys, self._state, strict=True) for i, t in enumerate(part)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors given by `state` back in."""
        for name, tensor in self.state().items():
            tensor.copy_(tensors[name])
