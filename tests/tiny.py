"""Tiny random models, a byte-level tokenizer, SAEs and their trainer for tests: built in memory, no network.

The architectures are the real ones (Qwen3 with QK-norm, grouped heads and n_heads * head_dim != hidden size; Gemma 3
with sliding and full layers; Llama; GPT-2), with random weights. The tokenizer is byte-level BPE like Qwen's, so most
Hangul syllables fall into several tokens, as they do for the models this package is about.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from sae_lens import SAE, LoggingConfig, SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, set_seed

from sae_lens_med.models.bridge import MedBridge, bridge
from sae_lens_med.runs.files import file_sha256, json_sha256

Arch = Literal["qwen3", "gemma3", "llama", "gpt2"]
ARCHES: tuple[Arch, ...] = ("qwen3", "gemma3", "llama", "gpt2")
HIDDEN = 32
LAYERS = 3
CONTEXT = 2048

# What the tokenizer has merges for: the layout of the prompts (" A" ... must be one token), some Korean and English.
_CORPUS = [
    *["\n정답： A\n정답： B\n정답： C\n정답： D\n정답： E\nA. B. C. D. E.\nAnswer: A B C D E"] * 20,
    *["환자는 발열과 기침으로 병원에 왔다. 다음 중 가장 알맞은 치료는?"] * 3,
    *["The patient has fever and chest pain. What is the most likely diagnosis?"] * 3,
]


def tiny_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, about 400 tokens; with `bos` it puts `<bos>` before every text (Gemma), else nothing (Qwen)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<pad>", "<eos>", *(["<bos>"] if bos else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    core.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    if bos:
        core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="<bos> $A", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        name_or_path="tiny",
        **({"bos_token": "<bos>", "add_bos_token": True} if bos else {}),
    )


def tiny_hf_model(arch: Arch, vocab_size: int, seed: int = 0, layers: int = LAYERS) -> Any:
    """A random transformers model of width 32, in float32, in eval mode, with eager attention."""
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,  # 4 * 16 != 32
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    gemma: dict[str, Any] = common | {"bos_token_id": 2}
    llama: dict[str, Any] = common | {"head_dim": 8}
    config: Any
    if arch == "qwen3":
        config = hf.Qwen3Config(**common, tie_word_embeddings=True)
    elif arch == "gemma3":
        config = hf.Gemma3TextConfig(
            **gemma,
            sliding_window=16,
            layer_types=[*["sliding_attention"] * (layers - 1), "full_attention"],
            query_pre_attn_scalar=16,
        )
    elif arch == "llama":
        config = hf.LlamaConfig(**llama)
    else:
        config = hf.GPT2Config(
            vocab_size=vocab_size,
            n_embd=HIDDEN,
            n_layer=layers,
            n_head=4,
            n_positions=CONTEXT,
            initializer_range=0.2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    set_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.config.architectures = [type(model).__name__]  # as a checkpoint has it; the bridge reads it
    return model


def tiny_model(arch: Arch = "qwen3", seed: int = 0) -> MedBridge:
    """A `MedBridge` over `tiny_hf_model`; Gemma 3 comes with a tokenizer that adds BOS, the others without."""
    tokenizer = tiny_tokenizer(bos=arch == "gemma3")
    hf_model = tiny_hf_model(arch, len(tokenizer), seed)
    return bridge(hf_model, tokenizer, {"name": f"tiny-{arch}-{seed}", "source": "local", "dtype": "float32"})


def save_tiny_model(folder: Path, arch: Arch = "qwen3", seed: int = 0) -> Path:
    """Write config, safetensors weights and tokenizer of `tiny_model(arch, seed)` as `load_model` reads them."""
    tokenizer = tiny_tokenizer(bos=arch == "gemma3")
    tiny_hf_model(arch, len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_sae(
    model: MedBridge, hook_name: str = "blocks.1.hook_resid_post", d_sae: int = 64, seed: int = 0
) -> StandardSAE:
    """A random SAELens `standard` SAE for `hook_name` (width d_model), about a fifth of whose features are active."""
    sae = StandardSAE(
        StandardSAEConfig(
            d_in=model.cfg.d_model,
            d_sae=d_sae,
            dtype="float32",
            device="cpu",
            apply_b_dec_to_input=True,
            metadata=SAEMetadata(model_name=model.provenance["name"], hook_name=hook_name),
        )
    )
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, model.cfg.d_model, generator=random)
    rows /= rows.norm(dim=1, keepdim=True)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.copy_(-1 - torch.rand(d_sae, generator=random))
        sae.b_dec.copy_(0.1 * torch.randn(model.cfg.d_model, generator=random))
    return sae.eval()


def save_tiny_sae(folder: Path, sae: SAE[Any]) -> str:
    """`sae.save_model(folder)`; returns the sha256 of config and weights."""
    sae.save_model(folder)
    return json_sha256({f.name: file_sha256(f) for f in sorted(Path(folder).iterdir())})


def tiny_trainer(
    sae: TrainingSAE[Any],
    batch: int,
    dead_feature_window: int = 100,
    trainer_class: type[SAETrainer[Any, Any]] = SAETrainer,
) -> SAETrainer[Any, Any]:
    """SAELens' trainer at a constant learning rate of 3e-3 with Adam's usual moments; give batches to its `step`."""
    config = SAETrainerConfig(
        total_training_samples=batch * 10_000,
        train_batch_size_samples=batch,
        lr=3e-3,
        lr_end=3e-3,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=dead_feature_window,
        feature_sampling_window=1000,
        logger=LoggingConfig(log_to_wandb=False),
        device="cpu",
        autocast=False,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    return trainer_class(config, sae, iter(()))
