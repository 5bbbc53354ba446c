"""What is simpler than features, for the data sheet of `organisms.py`: does the model reason as the expert does?

    ask        the words of the question that the model names when it is asked for its reasons
    gradient   gradient times input at the embeddings, of the margin of the model's answer
    relp       the same by the rules of relevance patching (Jafari et al. 2508.21258): norms' scales, attention patterns
               and the slope of the activation function are constants, and a gate's product passes half to either side

Each gives every counted token of the question a number, and is scored against the words that the expert marked as #6
scores what goes through the features (`alignment.span_scores`): AUPRC, and p of the hardest of three nulls.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.plausibility import labelled, span_tokens
from sae_lens_med.alignment.reasoning import Reasoning
from sae_lens_med.alignment.span_scores import span_scores
from sae_lens_med.interventions.edit_runs import AnswerText
from sae_lens_med.metrics.inputs import Inputs


def simpler_scores(inputs: Inputs, ask: bool = True) -> dict[str, dict[str, float]]:
    """Name -> AUPRC (`value`), mean of its null, p and items; without `ask` the model is not asked for its reasons."""
    items = inputs.view(CausalItems)
    model = inputs.model.model.plain
    spans = {
        text.id: span_tokens(text.char_spans, labelled(inputs.items[items.position[text.id]].question_spans))
        for text in items.texts
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    if ask:
        said = {run.id: run.reasoning for run in inputs.view(Reasoning).runs}
        found["ask"] = {
            text.id: _named(text, inputs.items[items.position[text.id]].question, said[text.id])
            for text in items.texts
            if text.id in said
        }
    found["gradient"] = {text.id: attributed(model, text) for text in items.texts}
    with relevance_rules(model):
        found["relp"] = {text.id: attributed(model, text) for text in items.texts}
    return {name: _scored(scores, spans, inputs) for name, scores in found.items()}


def _scored(scores: dict[str, np.ndarray], spans: dict[str, np.ndarray], inputs: Inputs) -> dict[str, float]:
    ids = list(scores)
    rng = np.random.default_rng([inputs.seed, 6])
    each = span_scores([scores[i] for i in ids], [spans[i] for i in ids], inputs.permutations, rng)
    null = each.harder("auprc")
    return {
        "value": each.value("auprc"),
        "null": float(null.mean()),
        "p": each.p("auprc"),
        "n": len(each.positions),
    }


def _named(text: AnswerText, question: str, reasons: str) -> np.ndarray:
    """1 for each counted token whose characters stand in the reasons as a word or its beginning, else 0."""
    words = [question[a:b].strip() for a, b in text.char_spans.tolist()]
    return np.array([float(len(word) > 1 and f" {word}" in f" {reasons}") for word in words])


def attributed(model: Any, text: AnswerText) -> np.ndarray:
    """`[m]`: input times gradient of the margin of the likeliest letter, at the counted tokens."""
    embedded = model.get_input_embeddings()(torch.tensor([text.token_ids])).detach().requires_grad_()
    letters = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1, list(text.letters)]
    best = int(letters.argmax())
    margin = letters[best] - (letters.sum() - letters[best]) / (len(letters) - 1)
    (gradient,) = torch.autograd.grad(margin, embedded)
    return (gradient * embedded).sum(-1)[0][torch.from_numpy(text.chosen)].detach().double().numpy()


@contextlib.contextmanager
def relevance_rules(model: Any) -> Iterator[None]:
    """Within it, gradients of a Llama-like transformers model follow the rules of the module's text; what it computes
    stays the same."""
    handles = []
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in ("q_proj", "k_proj"):
            handles.append(module.register_forward_hook(lambda _m, _args, out: out.detach()))
        elif type(module).__name__.endswith("RMSNorm"):
            handles.append(module.register_forward_hook(_frozen_norm))
        elif last == "mlp":
            handles.append(module.register_forward_hook(_halved_gate))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _frozen_norm(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
    scale = (out.detach() / args[0].detach()).nan_to_num(0.0, 0.0, 0.0)
    return out.detach() + (args[0] - args[0].detach()) * scale


def _halved_gate(module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
    gate, up = module.gate_proj(args[0]), module.up_proj(args[0])
    shaped = module.act_fn(gate).detach()
    slope = (shaped / gate.detach()).nan_to_num(0.0, 0.0, 0.0)
    active = shaped + (gate - gate.detach()) * slope
    halved = (active.detach() * up + active * up.detach()) / 2
    passed = module.down_proj(halved)
    return out.detach() + passed - passed.detach()
