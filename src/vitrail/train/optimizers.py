"""Optimisers that torch does not have, or not in the form a ViT needs: LAMB, Lion, Muon beside AdamW.

Every state is a tensor under its parameter, so a checkpoint needs no pickle and a resumed run no more than torch's own.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the quintic whose slope at zero is largest
ITERATIONS = 5
RMS_OF_ADAMW = 0.2  # Liu et al. 2025, equation 4: the usual root mean square of AdamW's update


class Lamb(Optimizer):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2, with the bias correction of its appendix).

    Adam's direction r plus weight_decay * x, scaled for each tensor by |x| / |r + weight_decay * x|; the factor is 1
    where either norm is 0. Groups with adapt=False (biases, norms, tokens) keep Adam's length, as in the authors' code,
    which leaves out of the scaling what it leaves out of the decay.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step (no closure is called); parameters without a gradient stay."""
        for group in self.param_groups:
            (beta1, beta2), decay = group["betas"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # on the CPU, where reading it waits for nothing
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                step, mean, square = int(state["step"]), state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(parameter.grad, 1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                root = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
                update = mean.div(root).div_(1 - beta1**step)
                if decay:
                    update.add_(parameter, alpha=decay)
                if group["adapt"]:
                    update.mul_(trust_ratio(parameter, update))
                parameter.add_(update, alpha=-group["lr"])


def trust_ratio(weight: Tensor, update: Tensor) -> Float[Tensor, ""]:
    """|weight| / |update|, and 1 where one of them is 0 (a new head of zeros must be able to leave zero)."""
    of_weight, of_update = weight.norm(), update.norm()
    return torch.where((of_weight > 0) & (of_update > 0), of_weight / of_update, 1.0)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the sign of an interpolation between momentum and
    gradient, and decoupled weight decay. The authors use betas (0.9, 0.99) and a rate 3 to 10 times below AdamW's."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step (no closure is called); parameters without a gradient stay."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(momentum.lerp(parameter.grad, 1 - beta1).sign_(), alpha=-group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)


class Muon(Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) on hidden matrices, AdamW on the rest.

    The Nesterov momentum of a matrix, made orthogonal by Newton-Schulz. A group's `matrices` says how many matrices lie
    on top of each other in each of its parameters (3 in a fused projection of queries, keys and values): they are made
    orthogonal one by one, which the authors found better than as one; 0 stands for AdamW. Kernels of convolutions are
    flattened. The update is scaled by 0.2 sqrt(max(rows, columns)), so that AdamW's rate and decay serve both
    (Liu et al. 2025, arXiv 2502.16982, equation 4).

    torch.optim.Muon takes a fused projection only as one matrix, and iterates in bfloat16 everywhere, which a processor
    that emulates it does 15 times slower than float32; here that is left to CUDA devices.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "matrices": 0})
        self.hidden = [group for group in self.param_groups if group["matrices"]]
        rest = [group for group in self.param_groups if not group["matrices"]]
        self.adamw = AdamW(rest, lr=lr, betas=betas, eps=eps, fused=True) if rest else None
        if self.adamw is not None:
            self.adamw.state = self.state  # one table for both, so that a checkpoint sees one optimiser

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step (no closure is called); parameters without a gradient stay."""
        if self.adamw is not None:
            self.adamw.step()
        for group in self.hidden:
            momentum = group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                ahead = parameter.grad.lerp(average, momentum).flatten(1)  # Nesterov
                update = orthogonal(ahead.unflatten(0, (group["matrices"], -1)))
                size = RMS_OF_ADAMW * math.sqrt(max(update.shape[1:]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)


def orthogonal(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Each matrix U S V^T as nearly U V^T: five Newton-Schulz iterations, which leave singular values of about 0.7 to
    1.2 (Jordan et al. 2024). In bfloat16 on a CUDA device, as published; elsewhere in the precision of the input."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x  # the smaller Gram matrix
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
