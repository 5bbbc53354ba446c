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


# --- two hops, and what attribution gets wrong ------------------------------------------------------------------------

HIDDEN_AT, KEY_AT = 70, 95
"""First of four coordinates that layer 1 writes and layer 2 reads, one for each letter; and the one of keys."""
SOURCE, COPY, OPPOSING, VALUE, KEY = 0, 4, 8, 12, 16
"""Symbols, and features of the first SAE, by the first of four: feature SOURCE + l has its symbol; so has COPY + l,
which moves nothing; OPPOSING + l speaks against letter l in the next layer; VALUE + l speaks for it there, where KEY
fires on its token. Symbol VALUE + l has VALUE + l and KEY, symbol ALONE + l has VALUE + l without KEY."""
ALONE = 60
PLAIN = tuple(range(20, 60))
"""Symbols whose features move nothing."""


def planted_model() -> MedBridge:
    """A model of three layers, by known features at the outputs of layers 0 and 1.

    two hops    SOURCE + l -> (attention of layer 1, every later token) coordinate HIDDEN_AT + l -> (attention of layer
                2, last token) letter l
    negative    OPPOSING + l -> (attention of layer 1) less of letter l
    saturation  a token with KEY draws all attention of layer 1: two such tokens back each other up, and at the clean
                text dm/dKEY is 0, while without KEY the VALUE there has a share like any other token's
    """
    model = known_model(()).plain
    import transformers as hf

    tokenizer = tiny_tokenizer()
    config = model.config
    config.num_hidden_layers = 3
    config._attn_implementation = "eager"
    planted: Any = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    planted.config.architectures = [type(planted).__name__]
    with torch.no_grad():
        for name, parameter in planted.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        embedding = planted.model.embed_tokens.weight
        embedding.copy_(model.model.embed_tokens.weight)
        planted.lm_head.weight.copy_(model.lm_head.weight)
        first, second = planted.model.layers[1].self_attn, planted.model.layers[2].self_attn
        for attention in (first, second):
            attention.v_proj.weight.copy_(torch.eye(D_MODEL))
        first.q_proj.weight[KEY_AT, BACKGROUND] = 1.0  # the slowest rotation: places do not matter
        first.k_proj.weight[KEY_AT, KEY] = 3.0
        for letter in range(4):
            embedding[token_of(SOURCE + letter), COPY + letter] = 1.0
            embedding[token_of(VALUE + letter), KEY] = 1.0
            embedding[token_of(ALONE + letter), ALONE + letter] = 0.0
            embedding[token_of(ALONE + letter), VALUE + letter] = 1.0
            first.o_proj.weight[HIDDEN_AT + letter, SOURCE + letter] = 1.0
            first.o_proj.weight[LETTERS_AT + letter, OPPOSING + letter] = -0.5
            first.o_proj.weight[LETTERS_AT + letter, VALUE + letter] = 0.2
            second.o_proj.weight[LETTERS_AT + letter, HIDDEN_AT + letter] = 1.0
    return bridge(planted, tokenizer, {"name": "planted", "source": "local", "dtype": "float32"})


def planted_saes() -> list[LoadedSae]:
    """At the outputs of layers 0 and 1: feature f is coordinate f, of the first 95."""
    found = []
    for layer in (0, 1):
        name = f"blocks.{layer}.hook_resid_post"
        sae = StandardSAE(
            StandardSAEConfig(
                d_in=D_MODEL,
                d_sae=D_MODEL - 1,
                dtype="float32",
                device="cpu",
                metadata=SAEMetadata(model_name="planted", hook_name=name),
            )
        )
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.zero_()
            sae.W_enc[: D_MODEL - 1].copy_(torch.eye(D_MODEL - 1))
            sae.W_dec[:, : D_MODEL - 1].copy_(torch.eye(D_MODEL - 1))
        sae.eval()
        found.append(LoadedSae(sae, f"planted-{layer}", "planted", weights_sha256(sae), name, None))
    return found


def token_of(symbol: int) -> int:
    """The token of a symbol."""
    [token] = tiny_tokenizer()(SYMBOLS[symbol]).input_ids
    return token


def letter_token(letter: int) -> int:
    """The token of an answer."""
    [token] = tiny_tokenizer()("ABCD"[letter]).input_ids
    return token
