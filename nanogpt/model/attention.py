"""Computes causal attention with torch's kernels, or with plain matrix products where those are faster."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.dropout import dropout

# Up to this many positions plain products are faster on a CPU than torch's flash kernel, forwards and backwards: in
# bf16 about 3 times at 256 positions, in fp32 twice with oneDNN's products and as fast with MKL's (`measured_rates`).
MATMUL_UP_TO = 512


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, starts: Tensor | None = None) -> Tensor:
    """Causal attention of the newest T of S positions over all S; groups of query heads share a key/value head.

    q: (B, H, T, D); k, v: (B, H_kv, S, D) with H a multiple of H_kv and S >= T; returns (B, H, T, D). With `starts`
    (B, T), where S = T, each position sees none before its start.
    Grouped-query attention: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245.
    """
    H, T = q.shape[1:3]
    H_kv, S = k.shape[1:3]
    by_matmul = T == S <= MATMUL_UP_TO and q.device.type == "cpu"
    if T == S and starts is None and not by_matmul:
        # enable_gqa uses the flash kernel on a CPU and was faster, forwards and backwards, than repeating k and v.
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True, enable_gqa=H_kv != H)
    # torch aligns its own causal mask with the oldest key; newer positions after a filled cache need another mask.
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if starts is not None:
        visible = visible & (torch.arange(S, device=q.device) >= starts[:, None, :, None])  # (B, 1, T, S)
    if by_matmul:
        return _attention_by_matmul(q, k, v, visible, dropout_p)
    if q.device.type == "cuda" and H_kv != H:  # whose kernels that hold no scores take groups, or a mask, but not both
        k, v = (heads.repeat_interleave(H // H_kv, dim=1) for heads in (k, v))
    return F.scaled_dot_product_attention(q, k, v, visible, dropout_p=dropout_p, enable_gqa=k.size(1) != H)


def _attention_by_matmul(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, dropout_p: float) -> Tensor:
    """Attention as two matrix products and a softmax, with all scores in memory; `visible` is (T, T) or (B, 1, T, T).

    The queries of a group are concatenated, so that a key/value head is multiplied once.
    """
    B, H, T, D = q.shape
    H_kv = k.size(1)
    rows = q.reshape(B * H_kv, -1, D)  # (B * H_kv, H / H_kv * T, D)
    hidden = torch.zeros(visible.shape, dtype=q.dtype, device=q.device).masked_fill_(~visible, -torch.inf)
    if hidden.dim() == 4:
        hidden = hidden.expand(B, H_kv, T, T).reshape(B * H_kv, T, T)
    hidden = torch.cat([hidden] * (H // H_kv), dim=-2)  # (B * H_kv or none, H / H_kv * T, T)
    scores = torch.baddbmm(hidden, rows, k.reshape(B * H_kv, T, D).mT, alpha=D**-0.5)  # (B * H_kv, H / H_kv * T, T)
    weights = dropout(scores.softmax(dim=-1), dropout_p)
    return torch.bmm(weights, v.reshape(B * H_kv, T, D)).view(B, H, T, D)
