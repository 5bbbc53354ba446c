"""A decoder run as a graph: each reader has an input of its own, and each head writes by itself.

    x_r  = sum over writers w before r of  M[r, w] W_w + (1 - M[r, w]) W'_w          the input of reader r
    head = softmax(q k^T s + mask) v W_O, of q from x_q, k and v from x_k, x_v of its key-value head
    MLP  = mlp(ln(x_m))

`M` is a mask over the edges, 1: the edge carries what its writer writes in this run, 0: what it writes on the other
text (`W'`). With M = 1 everywhere the run is the model's; with 0 everywhere the readers see the other text.

**Norms after attention and MLP** (Gemma 3). `post(sum_h r_h)` is no sum over heads; what head h writes is its share at
the scale of this run, `g * r_h / rms(sum r)`: the shares add up to the write, and each run, also a patched one,
computes the scale of its own sum. Biases behind W_O belong to no head and are always there.

Gradients: `reads` are tensors of the graph of autograd, one for each reader, so that d m/d x_r can be asked for. With
`M` in a run without gradients the writes stand in one buffer.

For Llama, Qwen 2 and 3, Gemma 3 (grouped queries, norms of queries and keys, sliding windows) and GPT-2, in float32:
effects of edges are small differences. Logits equal transformers' to rounding. Out of scope: soft caps, mixtures of
experts, encoder-decoder models, a key-value cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_lens_med.circuits.graph import Graph
from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.errors import ModelError
from sae_lens_med.models.hf_hooks import decoder_layers
from sae_lens_med.models.residuals import ready

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge

FAMILIES = ("gemma3", "gemma3_text", "gpt2", "llama", "qwen2", "qwen3")
"""`model_type`s whose layers are those of this module."""


@dataclass(slots=True, eq=False)
class GraphRun:
    """One batch that was run."""

    logits: Tensor
    """`[B, n]`, of the tokens that were asked for, after the last token."""
    writes: Tensor
    """`[B, n_writers, T, d_model]`"""
    reads: list[Tensor]
    """What was read: for each layer `[B, readers of its attention, T, d_model]` and `[B, 1, T, d_model]` of its MLP, at
    the end `[B, 1, T, d_model]` of the logits."""
    constant: Tensor
    """`[d_model]` for each layer: biases that no head writes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    norm: Any
    q: tuple[Tensor, Tensor | None]
    """`[n, d_model, head_dim]` and bias `[n, head_dim]`"""
    k: tuple[Tensor, Tensor | None]
    v: tuple[Tensor, Tensor | None]
    q_norm: Any
    k_norm: Any
    scaling: float
    window: int | None
    out: Tensor
    """`[heads, head_dim, d_model]`"""
    out_bias: Tensor
    post: tuple[Tensor, float] | None
    """Gain and epsilon of the norm after attention."""
    mlp_norm: Any
    mlp: Any
    mlp_post: Any


@dataclass(frozen=True, slots=True, eq=False)
class HeadWeights:
    """Of the heads of a layer: `x query` are its queries, `x value write` what it writes."""

    query: Tensor
    """`[heads, d_model, head_dim]`"""
    key: Tensor
    value: Tensor
    write: Tensor
    """`[heads, head_dim, d_model]`"""


class GraphDecoder:
    """Runs a model as its graph.

    Args:
        model: from `load_model`, in float32.

    Raises `ModelError` for another family, another dtype, and a bridge whose weights are not the plain model's.
    """

    def __init__(self, model: "MedBridge") -> None:
        plain = ready(model)
        kind = "?" if plain is None else plain.config.get_text_config().model_type
        if plain is None or kind not in FAMILIES:
            raise ModelError(
                f"edges between heads and MLPs are computed for {', '.join(FAMILIES)}, not for {kind}; use a model of "
                "these families, as it was opened."
            )
        if plain.dtype != torch.float32:
            raise ModelError(f"effects of edges need float32, and this model is in {plain.dtype}; open it in float32.")
        self.model, self._plain = model, plain
        self._config = plain.config.get_text_config()
        self._blocks = decoder_layers(plain)
        self._text: Any = plain.transformer if kind == "gpt2" else getattr(plain.model, "language_model", plain.model)
        self._final = self._text.ln_f if kind == "gpt2" else self._text.norm
        self._head: Any = plain.get_output_embeddings()
        heads = self._config.num_attention_heads
        self.graph = Graph(len(self._blocks), heads, getattr(self._config, "num_key_value_heads", None) or heads)
        make = _gpt2_layer if kind == "gpt2" else _llama_layer
        with torch.no_grad():
            self._layers = [make(block, self.graph) for block in self._blocks]
        self._rotations: dict[int, list[Any]] = {}

    def embed(self, tokens: Tensor) -> Tensor:
        """`[B, T]` -> `[B, T, d_model]`: what the input writes, positions included where they are learned."""
        found = self._plain.get_input_embeddings()(tokens)
        if self._config.model_type == "gpt2":
            found = found + self._text.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        return found

    @property
    def centres(self) -> bool:
        """Whether the last norm takes the mean away (layer norm)."""
        return isinstance(self._final, torch.nn.LayerNorm)

    def towards(self, whole: Tensor, batch: Sequence[Pair]) -> Tensor:
        """`[B, d_model]`: what a write at the last token is multiplied by to give its part of m, the scale of the last
        norm being that of `whole [B, d_model]`, everything that was written there."""
        apart = self._head.weight[[pair.answer for pair in batch]] - self._head.weight[
            [pair.other_answer for pair in batch]
        ]  # fmt: skip
        if self.centres:
            scale = torch.rsqrt(whole.var(-1, unbiased=False, keepdim=True) + self._final.eps)
            return apart * self._final.weight * scale
        eps = _eps(self._final)
        return apart * _gain(self._final, whole) * torch.rsqrt(whole.pow(2).mean(-1, keepdim=True) + eps)

    def output_bias(self, batch: Sequence[Pair]) -> Tensor:
        """`[B]`: what biases of the last norm and of the head add to m."""
        answers, others = ([getattr(pair, name) for pair in batch] for name in ("answer", "other_answer"))
        found = torch.zeros(len(batch), device=self._head.weight.device)
        if self.centres:
            found = found + (self._head.weight[answers] - self._head.weight[others]) @ self._final.bias
        if getattr(self._head, "bias", None) is not None:
            found = found + self._head.bias[answers] - self._head.bias[others]
        return found

    def head_weights(self, layer: int) -> "HeadWeights":
        """Of each head of a layer, the gains of the norms before and after folded in; biases are left out."""
        own, shared = self._layers[layer], self.graph.n_heads // self.graph.n_kv_heads
        gain = _gain(own.norm, own.out)[:, None]
        query, key = own.q[0], own.k[0]
        if own.q_norm is not None:
            query = query * _gain(own.q_norm, query)
            key = key * _gain(own.k_norm, key)
        return HeadWeights(
            query=gain * query,
            key=(gain * key).repeat_interleave(shared, dim=0),
            value=(gain * own.v[0]).repeat_interleave(shared, dim=0),
            write=own.out if own.post is None else own.out * own.post[0],
        )

    def run(
        self,
        embedded: Tensor,
        wanted: Tensor,
        *,
        mask: Tensor | None = None,
        other: Tensor | None = None,
        keep: bool = True,
    ) -> GraphRun:
        """Run a batch of texts of one length.

        Args:
            embedded: `[B, T, d_model]`, from `embed`.
            wanted: `[B, n]`, tokens whose logits are asked for.
            mask: `[n_readers, n_writers]`, with `other`; None: every edge carries this run.
            other: `[B, n_writers, T, d_model]`, the writes of the other text.
            keep: hold the reads, of which gradients can be asked for.
        """
        graph = self.graph
        batch, length, width = embedded.shape
        rotations = self._rotation(length, embedded)
        writes: list[Tensor] = [embedded[:, None]]
        buffer = embedded.new_zeros(0)
        total = embedded
        lent = embedded.new_zeros(0)
        constant = torch.zeros(width, dtype=embedded.dtype, device=embedded.device)
        reads: list[Tensor] = []
        if mask is not None:
            assert other is not None, "a mask needs the other text's writes"
            buffer = embedded.new_zeros((batch, graph.n_writers, length, width))
            buffer[:, 0] = embedded - other[:, 0]
            lent = other[:, 0].clone()

        def read(rows: slice, n_before: int) -> Tensor:
            if mask is None:
                n = rows.stop - rows.start
                found = (total + constant)[:, None].expand(batch, n, length, width)
            else:
                own = torch.einsum("rw,bwtd->brtd", mask[rows, :n_before], buffer[:, :n_before])
                found = own + (lent + constant)[:, None]
            if keep:
                reads.append(found)
            return found

        for number, layer in enumerate(self._layers):
            before = graph.before(number)
            x = read(graph.reader_rows(number), before)
            heads = self._attention(layer, x, rotations[number])
            constant = constant + layer.out_bias
            if mask is None:
                writes.append(heads)
                total = total + heads.sum(1)
            else:
                assert other is not None
                theirs = other[:, before : before + graph.n_heads]
                buffer[:, before : before + graph.n_heads] = heads - theirs
                lent = lent + theirs.sum(1)
            at = graph.reader_of_mlp(number)
            x = read(slice(at, at + 1), before + graph.n_heads)
            wrote = layer.mlp_post(layer.mlp(layer.mlp_norm(x)))
            if mask is None:
                writes.append(wrote)
                total = total + wrote[:, 0]
            else:
                assert other is not None
                theirs = other[:, before + graph.n_heads]
                buffer[:, before + graph.n_heads] = wrote[:, 0] - theirs
                lent = lent + theirs
        x = read(slice(graph.n_readers - 1, graph.n_readers), graph.n_writers)
        last = self._final(x[:, 0, -1])
        weight = self._head.weight[wanted]
        logits = torch.einsum("bd,bnd->bn", last, weight)
        if getattr(self._head, "bias", None) is not None:
            logits = logits + self._head.bias[wanted]
        written = torch.cat(writes, 1) if other is None or mask is None else buffer + other
        return GraphRun(logits, written, reads, constant)

    def _attention(self, layer: _Layer, x: Tensor, rotation: Any) -> Tensor:
        """What each head writes, `[B, heads, T, d_model]`, from what its queries, keys and values read."""
        h, g = self.graph.n_heads, self.graph.n_kv_heads
        normed = layer.norm(x)
        q, k, v = (
            _projected(part, weights)
            for part, weights in (
                (normed[:, :h], layer.q),
                (normed[:, h : h + g], layer.k),
                (normed[:, h + g :], layer.v),
            )
        )
        if layer.q_norm is not None:
            q, k = layer.q_norm(q), layer.k_norm(k)
        if rotation is not None:
            cos, sin = (each.unsqueeze(1) for each in rotation)
            q, k = q * cos + _half_turned(q) * sin, k * cos + _half_turned(k) * sin
        k, v = (each.repeat_interleave(h // g, dim=1) for each in (k, v))
        scores = q @ k.transpose(-1, -2) * layer.scaling
        scores = scores.masked_fill(~_seen(x.shape[2], layer.window, x.device), torch.finfo(scores.dtype).min)
        wrote = torch.einsum("bhtk,hkd->bhtd", scores.softmax(-1) @ v, layer.out)
        if layer.post is None:
            return wrote
        gain, eps = layer.post
        whole = (wrote.sum(1, keepdim=True) + layer.out_bias).pow(2).mean(-1, keepdim=True)
        return wrote * gain * torch.rsqrt(whole + eps)

    def _rotation(self, length: int, like: Tensor) -> list[Any]:
        """Of each layer, cosine and sine; None without them."""
        if self._config.model_type == "gpt2":
            return [None] * len(self._layers)
        if length not in self._rotations:
            places = torch.arange(length, device=like.device)[None]
            if self._config.model_type.startswith("gemma3"):
                types = self._config.layer_types
                by_type = {name: self._text.rotary_emb(like[:1], places, name) for name in set(types)}
                self._rotations[length] = [by_type[name] for name in types]
            else:
                self._rotations[length] = [self._text.rotary_emb(like[:1], places)] * len(self._layers)
        return self._rotations[length]


def batched(tokens: Sequence[Sequence[int]], device: Any) -> Tensor:
    """`[B, T]`. Raises `ModelError` for texts of different lengths."""
    if len({len(each) for each in tokens}) != 1:
        raise ModelError("texts of a batch of a graph have one length; sort them by length.")
    return torch.tensor([list(each) for each in tokens], dtype=torch.long, device=device)


def _projected(x: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
    matrix, bias = weights
    found = torch.einsum("bntd,ndk->bntk", x, matrix)
    return found if bias is None else found + bias[:, None]


def _half_turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


def _seen(length: int, window: int | None, device: Any) -> Tensor:
    places = torch.arange(length, device=device)
    away = places[:, None] - places[None]
    return (away >= 0) & (away < (window or length))


def _eps(norm: Any) -> float:
    return norm.eps if hasattr(norm, "eps") else norm.variance_epsilon


def _gain(norm: Any, like: Tensor) -> Tensor:
    """`[d]`: what a norm multiplies by, whether it is the weight (Llama), one plus it (Gemma), or a layer norm's."""
    if isinstance(norm, torch.nn.LayerNorm):
        return norm.weight.detach()
    ones = torch.ones(len(norm.weight), dtype=like.dtype, device=like.device)
    return (norm(ones) * (1 + _eps(norm)) ** 0.5).detach()


def _by_head(linear: Any, n: int) -> tuple[Tensor, Tensor | None]:
    weight = linear.weight.detach()  # [n * head_dim, d_model]
    bias = None if linear.bias is None else linear.bias.detach().reshape(n, -1)
    return weight.reshape(n, -1, weight.shape[1]).transpose(1, 2), bias


def _llama_layer(block: Any, graph: Graph) -> _Layer:
    attention = block.self_attn
    out = attention.o_proj.weight.detach()  # [d_model, heads * head_dim]
    sandwich = hasattr(block, "pre_feedforward_layernorm")
    post = None
    if sandwich:
        norm = block.post_attention_layernorm
        post = (_gain(norm, out), _eps(norm))
    bias = attention.o_proj.bias
    if bias is not None and sandwich:
        raise ModelError("a bias before a norm after attention is in none of the known models; edges are not computed.")
    return _Layer(
        norm=block.input_layernorm,
        q=_by_head(attention.q_proj, graph.n_heads),
        k=_by_head(attention.k_proj, graph.n_kv_heads),
        v=_by_head(attention.v_proj, graph.n_kv_heads),
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        scaling=attention.scaling,
        window=getattr(attention, "sliding_window", None),
        out=out.T.reshape(graph.n_heads, -1, out.shape[0]),
        out_bias=torch.zeros(out.shape[0], dtype=out.dtype, device=out.device) if bias is None else bias.detach(),
        post=post,
        mlp_norm=block.pre_feedforward_layernorm if sandwich else block.post_attention_layernorm,
        mlp=block.mlp,
        mlp_post=block.post_feedforward_layernorm if sandwich else _as_it_is,
    )


def _gpt2_layer(block: Any, graph: Graph) -> _Layer:
    attention, n = block.attn, graph.n_heads
    weight, bias = attention.c_attn.weight.detach(), attention.c_attn.bias.detach()  # [d_model, 3 * d_model]
    parts = [
        (each.reshape(each.shape[0], n, -1).transpose(0, 1), own.reshape(n, -1))
        for each, own in zip(weight.chunk(3, 1), bias.chunk(3), strict=True)
    ]
    out = attention.c_proj.weight.detach()
    return _Layer(
        norm=block.ln_1,
        q=parts[0],
        k=parts[1],
        v=parts[2],
        q_norm=None,
        k_norm=None,
        scaling=attention.scaling,
        window=None,
        out=out.reshape(n, -1, out.shape[1]),
        out_bias=attention.c_proj.bias.detach(),
        post=None,
        mlp_norm=block.ln_2,
        mlp=block.mlp,
        mlp_post=_as_it_is,
    )


def _as_it_is(x: Tensor) -> Tensor:
    return x
