"""What the user of a circuit command chooses, checked. Out of scope: what a command has by itself."""

from dataclasses import dataclass

from sae_lens_med.circuits.edges import CLEAN, midpoints
from sae_lens_med.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """Of a circuit of edges, or of nodes, which have defaults of their own."""

    ig_steps: int
    """Midpoints of the path; 0: the gradient on the clean text alone."""
    random_circuits: int
    """Beside the circuit."""
    seed: int = 0
    batch_tokens: int = 512

    def __post_init__(self) -> None:
        for name, least, most in (("ig_steps", 0, 1000), ("random_circuits", 0, 10_000), ("batch_tokens", 1, 10**9)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from {least} to {most}, got {getattr(self, name)}.")

    @property
    def points(self) -> tuple[float, ...]:
        """Shares of the way to the clean text at which gradients are taken."""
        return midpoints(self.ig_steps) if self.ig_steps else CLEAN
