"""The model and the SAE of a study, opened again: on first use, and refused when they are not those of the study.

Out of scope: how they are opened (the caller's function).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.records import Provenance

Opener = Callable[[Provenance], ModelSide]


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """Of the study of this provenance."""

    opener: Opener | None
    provenance: Provenance

    def fresh(self) -> ModelSide:
        """Another copy, that may be altered. Raises `ConfigError` where nothing opens it, `StudyError` where it is not
        the study's."""
        if self.opener is None:
            raise ConfigError("the model is needed, but nothing that runs it was asked for; leave --no-model out.")
        side = self.opener(self.provenance)
        _require_same(side, self.provenance)
        return side

    def get(self) -> ModelSide:
        """The one copy that is shared; do not alter it."""
        return self._shared

    @cached_property
    def _shared(self) -> ModelSide:
        return self.fresh()


def _require_same(side: ModelSide, provenance: Provenance) -> None:
    theirs, sae = side.model.provenance, provenance.sae or {}
    for key in ("sha256", "config_sha256", "tokenizer_sha256", "revision", "dtype"):
        if key in provenance.model and theirs.get(key) != provenance.model[key]:
            raise StudyError(
                f"the study was made with the model {provenance.model['name']!r} of {key} "
                f"{str(provenance.model[key])[:12]}, but {theirs['name']!r} has {str(theirs.get(key))[:12]}; name the "
                "study's model with --model."
            )
    if [shot.id for shot in side.shots] != list(provenance.settings.get("shots", [])):
        raise StudyError(
            "the solved examples before each question of the study are not those of its data now; use the data that "
            "the study names."
        )
    if not side.loaded_sae.is_that_of(sae):
        raise StudyError(
            f"the study was made with the SAE {sae.get('source')!r}, but {side.loaded_sae.source!r} has other weights "
            "or another configuration; name the study's SAE with --sae."
        )
