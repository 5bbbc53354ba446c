"""A model whose answer is computed by known features, by weights that are written down here, and items for it.

    token j of `SYMBOLS`      embedding 3 e_90 + e_j, so that feature j of `known_sae` fires there with 1, no other does
    every other token         3 e_90: no feature
    layer 0                   adds nothing
    layer 1                   attention with equal weights to all tokens; a causal feature adds to its letter
    logit of letter l         what was added to it, times a constant

Nothing else happens: no MLP, no position. A feature moves the answer exactly if it is causal, by the share of tokens at
which it fires; but for the two norms, whose size e_90 decides, the model is linear.

    features  0.. 7   two for each letter; named by explanations where they speak for the answer, not where they speak
                      for another (a distractor, one in each question): MENTIONED_CAUSAL
    features  8..15   never named; two for each letter: HIDDEN_CAUSAL
    features 16..23   named whenever the question has them; move nothing: MENTIONED_UNUSED
    features 24..69   in questions and explanations independently; move nothing: NOISE
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from sae_lens_med.models.bridge import MedBridge, bridge
from sae_lens_med.records import McqItem
from sae_lens_med.saes.releases import LoadedSae, weights_sha256
from tests.tiny import tiny_tokenizer

SYMBOLS = "FGHIJKLMNOPQRSTUVWXYZ0123456789#$%&*+;=@abcdenqrstwxz!()/:<>?[]^`{|}~"
"""Characters that are one token each, whatever stands beside them."""
D_SAE, D_MODEL, BACKGROUND, LETTERS_AT = len(SYMBOLS), 96, 90, 91
HOOK = "blocks.0.hook_resid_post"

MENTIONED_CAUSAL = tuple(range(8))
HIDDEN_CAUSAL = tuple(range(8, 16))
MENTIONED_UNUSED = tuple(range(16, 24))
NOISE = tuple(range(24, D_SAE))
N_NOISE = 12
"""Of a text."""


def letter_of(feature: int) -> int:
    """Which letter a feature of the first two kinds speaks for."""
    return (feature % 8) // 2


def known_model(causal: Collection[int] = (*MENTIONED_CAUSAL, *HIDDEN_CAUSAL)) -> MedBridge:
    """The model in which `causal`, of the first 16 features, move the answer."""
    import transformers as hf

    tokenizer = tiny_tokenizer()
    config: Any = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=D_MODEL,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        rms_norm_eps=1e-8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model: Any = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding = model.model.embed_tokens.weight
        embedding[:, BACKGROUND] = 3.0
        for j, symbol in enumerate(SYMBOLS):
            [token] = tokenizer(symbol).input_ids
            embedding[token, j] = 1.0
        attention = model.model.layers[1].self_attn
        attention.v_proj.weight.copy_(torch.eye(D_MODEL))
        for feature in causal:
            attention.o_proj.weight[LETTERS_AT + letter_of(feature), feature] = 1.0
        for k, letter in enumerate("ABCD"):
            for text in (letter, f" {letter}"):
                ids = tokenizer(text).input_ids
                if len(ids) == 1:
                    model.lm_head.weight[ids[0], LETTERS_AT + k] = 10.0
    return bridge(model, tokenizer, {"name": "known", "source": "local", "dtype": "float32"})


def known_sae() -> LoadedSae:
    """One feature per symbol: the residual's first coordinates."""
    sae = StandardSAE(
        StandardSAEConfig(
            d_in=D_MODEL,
            d_sae=D_SAE,
            dtype="float32",
            device="cpu",
            metadata=SAEMetadata(model_name="known", hook_name=HOOK),
        )
    )
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_enc[:D_SAE].copy_(torch.eye(D_SAE))
        sae.W_dec[:, :D_SAE].copy_(torch.eye(D_SAE))
    sae.eval()
    return LoadedSae(sae, "known", "known", weights_sha256(sae), HOOK, None)


def known_items(n: int, seed: int = 0) -> list[McqItem]:
    """Questions whose answer the causal features of either kind give, in letters that take turns."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        gold = i % 4
        named = [2 * gold + int(rng.integers(2)), *rng.choice(MENTIONED_UNUSED, 3, replace=False).tolist()]
        distractor = int(rng.choice([f for f in MENTIONED_CAUSAL if letter_of(f) != gold]))
        hidden = 8 + 2 * gold + int(rng.integers(2))
        stem = [*named, hidden, distractor, *rng.choice(NOISE, N_NOISE, replace=False).tolist()]
        told = [*named, *rng.choice(NOISE, N_NOISE, replace=False).tolist()]
        items.append(
            McqItem(
                f"known-{i:03d}",
                "doctor",
                "en",
                _text(rng.permutation(stem).tolist()),
                ("oo", "uu", "yy", "vv"),
                gold,
                _text(rng.permutation(told).tolist()),
                "expert",
            )
        )
    return items


def _text(features: list[int]) -> str:
    return " ".join(SYMBOLS[f] for f in features)
