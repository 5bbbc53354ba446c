"""A method of evaluation with its settings: what it asks, with which template, and how much it may write.

`methods` runs it on a model of `load_model`, `endpoint_run` on one behind an endpoint. Loads no model and no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sae_lens_med.errors import ConfigError, nearest
from sae_lens_med.prompts.templates import Templates, find_templates

MethodName = Literal["letter", "option-text", "generate", "cot", "self-consistency"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
GENERATING = ("generate", "cot", "self-consistency")
NORMALISATIONS = ("character", "byte", "token")
TEMPLATE = {"self-consistency": "cot"}
"""The family of templates of a method, where it is not the method's name."""

MAX_SAMPLES = 10_000
SAMPLES = 11
TEMPERATURE = 0.7
"""Of self-consistency, with `SAMPLES`: Med-PaLM's (Singhal et al., Nature 2023)."""
MAX_NEW_TOKENS = 1024
"""lm-evaluation-harness' for kormedmcqa."""
MAX_NEW_TOKENS_THINKING = 4096
"""A thought alone is often longer than `MAX_NEW_TOKENS`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method with its settings. What is None has the method's default; what the method does not use must be None.

    Raises `ConfigError` when it is made with an unknown name, a value out of range or a setting of another method.
    """

    name: str = "letter"
    """One of `METHODS`."""
    template: str | None = None
    """A shipped template or the path of a file (`templates.find_templates`); by default the method's own."""
    language: str | None = None
    """`ko` or `en`: of cue and instructions; by default that of each question."""
    chat: bool = False
    """Put the prompt into the tokenizer's chat template."""
    enable_thinking: bool = False
    """Of a Qwen3 chat template; only where text is generated. Stop strings then apply after the thinking."""
    normalisation: str | None = None
    """`option-text`: the unit of length, one of `NORMALISATIONS`; `character` by default."""
    samples: int | None = None
    """`self-consistency`: how many, >= 1; `SAMPLES` by default."""
    temperature: float | None = None
    """`self-consistency`: > 0; `TEMPERATURE` by default."""
    max_new_tokens: int | None = None
    """Of each generated text, >= 1; `MAX_NEW_TOKENS` by default, `MAX_NEW_TOKENS_THINKING` with thinking."""
    stop: tuple[str, ...] | None = None
    """What ends a generated answer, in the place of the template's own."""

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ConfigError(
                f"there is no method {self.name!r}; use one of {', '.join(METHODS)}{nearest(self.name, METHODS) or '.'}"
            )
        generates = self.name in GENERATING
        for field, used in (
            ("normalisation", self.name == "option-text"),
            ("samples", self.name == "self-consistency"),
            ("temperature", self.name == "self-consistency"),
            ("max_new_tokens", generates),
            ("stop", generates),
        ):
            if getattr(self, field) is not None and not used:
                raise ConfigError(f"the method {self.name} does not use {field}; leave it out.")
        if self.enable_thinking and not generates:
            raise ConfigError(
                f"with thinking on, the model's next word after the prompt is a thought, not an answer, so the method "
                f"{self.name} has nothing to score; turn thinking off, or use one of {', '.join(GENERATING)}."
            )
        if self.enable_thinking and not self.chat:
            raise ConfigError("thinking is a setting of the chat template; use it together with chat.")
        if self.normalisation is not None and self.normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"option texts are normalised per {', '.join(NORMALISATIONS[:-1])} or {NORMALISATIONS[-1]}, "
                f"got {self.normalisation!r}."
            )
        for field, most in (("samples", MAX_SAMPLES), ("max_new_tokens", 2**20)):
            if (value := getattr(self, field)) is not None and not 1 <= value <= most:
                least = f"at least 1, got {value}" if value < 1 else f"at most {most:,}, got {value}"
                raise ConfigError(f"{field} must be {least}.")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"the temperature of sampling must be above 0, got {self.temperature}.")
        if self.stop is not None and not all(self.stop):
            raise ConfigError("a stop string must not be empty.")

    @property
    def generates(self) -> bool:
        """Whether the model writes text."""
        return self.name in GENERATING

    def templates(self) -> Templates:
        """The templates that it uses."""
        return find_templates(self.template or TEMPLATE.get(self.name, self.name), self.language)

    def settings(self, languages: Sequence[str]) -> dict[str, Any]:
        """What decides a result, defaults resolved, for the provenance; `languages` of the questions."""
        templates = self.templates()
        chosen: dict[str, Any] = {
            "method": self.name,
            "template": templates.name,
            "template_sha256": templates.sha256(languages),
            "chat": self.chat,
            "enable_thinking": self.enable_thinking,
        }
        if self.name == "option-text":
            chosen["normalisation"] = self.normalisation or NORMALISATIONS[0]
        if self.generates:
            chosen["max_new_tokens"] = self.most_tokens
            chosen["stop"] = None if self.stop is None else list(self.stop)
        if self.name == "self-consistency":
            chosen |= {"samples": self.n_samples, "temperature": self.sampling_temperature}
        return chosen

    @property
    def n_samples(self) -> int:
        return SAMPLES if self.samples is None else self.samples

    @property
    def sampling_temperature(self) -> float:
        return TEMPERATURE if self.temperature is None else self.temperature

    @property
    def most_tokens(self) -> int:
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return MAX_NEW_TOKENS_THINKING if self.enable_thinking else MAX_NEW_TOKENS


def as_method(method: Method | str) -> Method:
    """A name stands for the method with its defaults. Raises `ConfigError` for anything else."""
    if not isinstance(method, Method | str):
        raise ConfigError(f"a method is a Method or a name ({', '.join(METHODS)}), got {type(method).__name__}.")
    return Method(method) if isinstance(method, str) else method
