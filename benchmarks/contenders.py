"""Who runs in `train_step.py`: what each is, which library it needs, and how its step is built.

A step is what the library's own trainer does with one batch of activations: forward, backward, clipping or projection
where it has them, optimiser, counts of firing features. All get the same x, the same dictionary and, where they have a
ReLU, the same biases; top-k contenders have zero biases and k = L0. The learning rate is 1e-12: the work is that of any
rate, and the L0 stays what it was.

Nothing but the standard library is imported before a contender is built, so that each library is imported in its own
process alone.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LR = 1e-12
L1 = 0.1

MODULES = {
    "torch": ("torch",),
    "sae-lens": ("sae_lens",),
    "sae-lens-med": ("sae_lens", "sae_lens_med.saes.tied_l1"),
    "eai-sparsify": ("sparsify", "sparsify.sign_sgd", "schedulefree"),
    "dictionary-learning": ("dictionary_learning", "dictionary_learning.trainers"),
}
"""By library. SAELens comes before the modules of this package that use it."""


class Unavailable(Exception):
    """A contender that cannot run here; the message is one sentence that says why."""


@dataclass(frozen=True)
class Work:
    """What a contender is built for. `x [batch, d_in]`, `M [d_sae, d_in]`, `b [d_sae]`: torch tensors, float32."""

    x: Any
    M: Any
    b: Any
    l0: int
    device: str


@dataclass(frozen=True)
class Built:
    """A contender that is ready."""

    step: Callable[[], Any]
    l0: Callable[[Any], float | None] = lambda _: None
    """From a step's result."""
    warm_up: int = 1
    """Steps before the first one that counts."""


@dataclass(frozen=True)
class Contender:
    label: str
    library: str
    build: Callable[[Work], Built]
    note: str = ""
    default: bool = True

    def load(self, device: str) -> None:
        """Import what its step needs, so that this is no part of the memory that the step takes."""
        if device == "cpu":
            # With triton installed, eai-sparsify would call its CUDA kernel on the CPU.
            os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
        for name in MODULES[self.library]:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name in MODULES[self.library]:
                    raise Unavailable("not installed") from error
                raise


# --- SAELens and this package ---------------------------------------------------------------------------------------


def _trainer(sae: Any, work: Work, *, autocast: bool = False, fused_adam: bool = False) -> Any:
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

    batch = len(work.x)
    config = SAETrainerConfig(
        total_training_samples=10**6 * batch,
        train_batch_size_samples=batch,
        lr=LR,
        lr_end=LR,
        device=work.device,
        autocast=autocast,
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))
    if fused_adam:
        for group in trainer.optimizer.param_groups:
            group["fused"] = True
    return trainer


def _mean_active(output: Any) -> float:
    """L0 of a SAELens step; `feature_acts` may be sparse."""
    acts = output.feature_acts
    values = acts.coalesce().values() if acts.is_sparse else acts
    return int((values != 0).sum()) / len(output.sae_in)


def _saelens(
    architecture: str, *, autocast: bool = False, compiled: bool = False, fused_adam: bool = False, **fields: Any
) -> Callable[[Work], Built]:
    def build(work: Work) -> Built:
        import torch
        from sae_lens.registry import get_sae_training_class

        sae_class, config_class = get_sae_training_class(architecture)
        own: dict[str, Any] = {"k": work.l0} if architecture == "topk" else {"l1_coefficient": L1}
        d_sae, d_in = work.M.shape
        sae: Any = sae_class(config_class(d_in=d_in, d_sae=d_sae, device=work.device, **own, **fields))
        with torch.no_grad():
            sae.W_dec.copy_(work.M)
            sae.W_enc.copy_(work.M.T)
            if architecture == "standard":
                sae.b_enc.copy_(work.b)
        trainer = _trainer(sae, work, autocast=autocast, fused_adam=fused_adam)
        if compiled:
            # As SAELens' runner does for `compile_sae`.
            torch._dynamo.reset()  # type: ignore[attr-defined]  # loaded on demand
            sae.training_forward_pass = torch.compile(sae.training_forward_pass, backend="inductor")
        return Built(lambda: trainer.step(work.x), _mean_active, warm_up=2 if compiled else 1)

    return build


def _tied(path: str, *, bf16_filter: bool = False) -> Callable[[Work], Built]:
    """One path of `tied_l1`, whatever it would choose at this density itself; `path` is `sparse` or `dense`."""

    def build(work: Work) -> Built:
        import torch

        from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig

        if bf16_filter:
            from sae_lens_med.saes.sparse_step import has_fast_bf16

            if not has_fast_bf16(torch.device(work.device)):
                raise Unavailable("no fast bfloat16 product on this hardware: tied_l1 encodes in float32 here.")
        d_sae, d_in = work.M.shape
        config = TiedL1TrainingSAEConfig(
            d_in=d_in, d_sae=d_sae, device=work.device, l1_coefficient=L1, bf16_filter=bf16_filter
        )
        sae = TiedL1TrainingSAE(config)
        with torch.no_grad():
            sae.E.copy_(work.M)
            sae.b_enc.copy_(work.b)
        # As `sae-lens-med train` sets it.
        trainer = _trainer(sae, work, fused_adam=True)

        def step() -> Any:
            sae.takes_sparse_path.fill_(path == "sparse")
            output = trainer.step(work.x)
            if output.feature_acts.is_sparse != (path == "sparse"):
                raise RuntimeError(f"tied_l1 did not take the {path} path")
            return output

        return Built(step, _mean_active)

    return build


# --- peers ----------------------------------------------------------------------------------------------------------


def _sparsify(optimizer: str) -> Callable[[Work], Built]:
    """eai-sparsify's `Trainer.fit` without the language model around it: loss `fvu`, one hook, no AuxK (defaults)."""

    def build(work: Work) -> Built:
        import torch

        sparsify = importlib.import_module("sparsify")
        torch.set_float32_matmul_precision("high")
        d_sae, d_in = work.M.shape
        config = sparsify.SparseCoderConfig(num_latents=d_sae, k=work.l0)
        sae = sparsify.SparseCoder(d_in, config, device=work.device, dtype=torch.float32)
        with torch.no_grad():
            sae.encoder.weight.copy_(work.M)
            sae.W_dec.copy_(work.M)
        if optimizer == "adam":
            steps = torch.optim.Adam(sae.parameters(), lr=LR)
        else:
            sign_sgd = importlib.import_module("sparsify.sign_sgd").SignSGD
            steps = importlib.import_module("schedulefree").ScheduleFreeWrapper(
                sign_sgd(sae.parameters(), lr=LR), momentum=0.95
            )
            steps.train()
        since_fired = torch.zeros(d_sae, device=work.device, dtype=torch.long)
        did_fire = torch.zeros(d_sae, device=work.device, dtype=torch.bool)

        def step() -> Any:
            x = work.x
            sae.set_decoder_norm_to_unit_norm()
            out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
            did_fire[out.latent_indices.flatten()] = True
            (out.fvu + out.multi_topk_fvu / 8).backward()
            sae.remove_gradient_parallel_to_decoder_directions()
            steps.step()
            steps.zero_grad()
            with torch.no_grad():
                since_fired.add_(len(x))
                since_fired[did_fire] = 0
                did_fire.zero_()
            return out

        return Built(step, lambda out: int((out.latent_acts != 0).sum()) / len(work.x))

    return build


def _dictionary_learning(trainer_name: str) -> Callable[[Work], Built]:
    """dictionary_learning's own `Trainer.update`, without AuxK and resampling being due."""

    def build(work: Work) -> Built:
        import torch

        trainer_class = getattr(importlib.import_module("dictionary_learning.trainers"), trainer_name)
        d_sae, d_in = work.M.shape
        top_k = trainer_name == "TopKTrainer"
        own: dict[str, Any] = {"k": work.l0} if top_k else {"l1_penalty": L1}
        trainer = trainer_class(
            steps=10**6, activation_dim=d_in, dict_size=d_sae, layer=0, lm_name="", lr=LR, device=work.device, **own
        )
        with torch.no_grad():
            trainer.ae.encoder.weight.copy_(work.M)
            trainer.ae.decoder.weight.copy_(work.M.T)
            if not top_k:
                trainer.ae.encoder.bias.copy_(work.b)
        count = iter(range(1, 10**6))

        def measured(_: Any) -> float:
            with torch.no_grad():
                return int((trainer.ae.encode(work.x) != 0).sum()) / len(work.x)

        return Built(lambda: trainer.update(next(count), work.x), measured)

    return build


# --- floors ---------------------------------------------------------------------------------------------------------


def _product(dtype_name: str) -> Callable[[Work], Built]:
    def build(work: Work) -> Built:
        import torch

        dtype = getattr(torch, dtype_name)
        x, W = work.x.to(dtype), work.M.T.contiguous().to(dtype)

        def step() -> None:
            with torch.no_grad():
                _ = x @ W

        return Built(step)

    return build


HOW_TO_INSTALL = {
    "eai-sparsify": "pip install eai-sparsify in a venv, then --peer-python VENV/bin/python",
    "dictionary-learning": "pip install dictionary-learning in a venv, then --peer-python VENV/bin/python",
}
"""The libraries that run in the peers' Python."""

CONTENDERS: dict[str, Contender] = {
    "tied": Contender(
        "tied_l1 sparse, float32",
        "sae-lens-med",
        _tied("sparse"),
        "bf16_filter off; held on the sparse path; fused Adam",
    ),
    "tied-bf16": Contender(
        "tied_l1 sparse, bf16 filter",
        "sae-lens-med",
        _tied("sparse", bf16_filter=True),
        "as it is by default; held on the sparse path; fused Adam",
    ),
    "tied-dense": Contender("tied_l1 dense", "sae-lens-med", _tied("dense"), "held on the dense path; fused Adam"),
    "saelens-standard": Contender("SAELens standard", "sae-lens", _saelens("standard"), "eager, float32"),
    "saelens-standard-bf16": Contender(
        "SAELens standard, autocast", "sae-lens", _saelens("standard", autocast=True), "autocast bfloat16"
    ),
    "saelens-standard-compiled": Contender(
        "SAELens standard, compiled", "sae-lens", _saelens("standard", compiled=True), "torch.compile as compile_sae"
    ),
    "saelens-standard-bf16-compiled": Contender(
        "SAELens standard, autocast + compiled",
        "sae-lens",
        _saelens("standard", autocast=True, compiled=True),
        "autocast bfloat16, torch.compile as compile_sae",
    ),
    "saelens-standard-fused": Contender(
        "SAELens standard, fused Adam",
        "sae-lens",
        _saelens("standard", fused_adam=True),
        "what the optimiser alone gives",
        default=False,
    ),
    "saelens-topk": Contender("SAELens topk", "sae-lens", _saelens("topk"), "eager, float32"),
    "saelens-topk-sparse": Contender(
        "SAELens topk, sparse activations",
        "sae-lens",
        _saelens("topk", use_sparse_activations=True),
        "its use_sparse_activations",
    ),
    "sparsify-topk": Contender(
        "eai-sparsify topk, Adam", "eai-sparsify", _sparsify("adam"), "eager on a CPU, Triton on a GPU; loss fvu, Adam"
    ),
    "sparsify-topk-signum": Contender(
        "eai-sparsify topk, signum", "eai-sparsify", _sparsify("signum"), "as above, with its default optimiser"
    ),
    "dl-standard": Contender(
        "dictionary_learning standard",
        "dictionary-learning",
        _dictionary_learning("StandardTrainer"),
        "its StandardTrainer.update (ConstrainedAdam)",
    ),
    "dl-topk": Contender(
        "dictionary_learning topk",
        "dictionary-learning",
        _dictionary_learning("TopKTrainer"),
        "its TopKTrainer.update (Adam)",
    ),
    "fp32-product": Contender("float32 product x W", "torch", _product("float32"), "the encoding alone: a floor"),
    "bf16-product": Contender("bfloat16 product x W", "torch", _product("bfloat16"), "the encoding alone: a floor"),
}
