"""Limits of what runs the model for a page. Frozen, checked here."""

from dataclasses import dataclass

from sae_lens_med.errors import ConfigError

MAX_FEATURES = 8
"""Features that are edited together."""
MAX_STRENGTH = 10.0
"""Multiples of a feature's maximum."""
MAX_TOKENS = 256
"""Tokens that are written, before and after each."""
MAX_CHARACTERS = 20_000
"""Of an edited stem or option."""


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """How long what may take, in seconds, and how many may wait."""

    waiting: int = 4
    """Runs behind the one that is running; the next one is refused."""
    sets: int = 20
    """Sets of random features beside a set that is edited."""
    run_seconds: float = 60.0
    """Wall time of a run, from when the model is there."""
    load_seconds: float = 600.0
    """Of opening the model."""
    idle_seconds: float = 600.0
    """After so long without a run the model's process is ended."""
    unread_seconds: float = 15.0
    """A run that nobody has read for so long is cancelled."""
    cancel_seconds: float = 5.0
    """A process that has not let a cancelled run go by then is ended; opening its model again takes longer."""
    kept: int = 32
    """Finished runs that can still be read."""

    def __post_init__(self) -> None:
        for name in ("run_seconds", "load_seconds", "idle_seconds", "unread_seconds", "cancel_seconds"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"{name} must be above 0 and at most 86,400 seconds, got {getattr(self, name)}.")
        for name, least, most in (("waiting", 0, 100), ("sets", 2, 200), ("kept", 1, 1000)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must lie between {least} and {most}, got {getattr(self, name)}.")
