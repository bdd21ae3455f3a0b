"""What processes that train one model together exchange: gradients at every step, or weights after several."""

import contextlib
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nanogpt.hardware import process_group

Loss = Callable[[Tensor, Tensor], Tensor]
BUCKET_MB = 25  # of gradients that are sent together; torch's default
# DiLoCo's optimizer of the exchanged weights (Douillard et al. 2023, arXiv:2311.08105, section 3). Its momentum there
# is 0.9, for hundreds of exchanges; in runs of minutes the loss then ended 14% higher (docs/scaling.md).
OUTER_LR, OUTER_MOMENTUM = 0.7, 0.5


class _WithLoss(nn.Module):
    """A model whose forward pass is `loss_of`, as DistributedDataParallel calls it."""

    def __init__(self, model: nn.Module, loss_of: Loss):
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self.loss_of(ids, targets)


def average_gradients(model: nn.Module, loss_of: Loss, dtype: torch.dtype) -> DistributedDataParallel:
    """Return `loss_of`, whose backward pass gives every process the mean gradient of all.

    Gradients travel in `dtype`; between machines while the backward pass goes on, but on one machine behind it, where
    sending would take the cores from it. All processes begin with the first one's weights.
    """
    on_one_machine = process_group.size() == process_group.local_size()
    bucket_mb = sum(p.nbytes for p in model.parameters()) / 2**20 + 1 if on_one_machine else BUCKET_MB
    shared = DistributedDataParallel(_WithLoss(model, loss_of), gradient_as_bucket_view=True, bucket_cap_mb=bucket_mb)
    if dtype == torch.bfloat16:
        shared.register_comm_hook(None, _average_in_bf16)
    return shared


def _average_in_bf16(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """As torch's `bf16_compress_hook`, which refuses gloo."""
    gradients = bucket.buffer()
    sent = gradients.to(torch.bfloat16).div_(process_group.size())
    received = dist.all_reduce(sent, async_op=True).get_future()
    return received.then(lambda future: gradients.copy_(future.value()[0]))


def gradients_stay(loss_of: Loss) -> contextlib.AbstractContextManager:
    """Context in which a batch's gradient is added to this process's own, to be exchanged with a later one."""
    return loss_of.no_sync() if isinstance(loss_of, DistributedDataParallel) else contextlib.nullcontext()


def own_rows(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """This process's rows of a batch, (B, T) int64 each."""
    count, number = process_group.size(), process_group.rank()
    return ids.tensor_split(count)[number], targets.tensor_split(count)[number]


class LocalSteps:
    """Training in which every process makes several steps of its own before all exchange what they have learned.

    This is DiLoCo (Douillard et al. 2023, arXiv:2311.08105): the mean way that the weights have gone is a gradient, on
    which SGD with Nesterov momentum steps from where they all began. It travels in `dtype`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self.dtype = dtype
        self.weights = [p for p in model.parameters() if p.requires_grad]
        for p in self.weights:
            dist.broadcast(p.detach(), 0)
        self.common = [nn.Parameter(p.detach().clone()) for p in self.weights]
        self.outer = torch.optim.SGD(self.common, OUTER_LR, OUTER_MOMENTUM, nesterov=True)

    @torch.no_grad()
    def exchange(self) -> None:
        """Give all processes the same weights again."""
        ways = [common - p for common, p in zip(self.common, self.weights, strict=True)]
        flat = torch.cat([way.flatten() for way in ways]).to(self.dtype)
        dist.all_reduce(flat.div_(process_group.size()))
        for common, part in zip(self.common, flat.split([p.numel() for p in self.common]), strict=True):
            common.grad = part.view_as(common).to(common.dtype)
        self.outer.step()
        for p, common in zip(self.weights, self.common, strict=True):
            p.copy_(common)

    def state_dict(self) -> dict:
        """The momentum, for `restart`; to be called right after `exchange`, when all have the same weights."""
        return self.outer.state_dict()

    @torch.no_grad()
    def restart(self, state: dict | None) -> None:
        """Go on from the model's weights, with this momentum if there is one."""
        for p, common in zip(self.weights, self.common, strict=True):
            common.copy_(p)
        if state:
            self.outer.load_state_dict(state)
