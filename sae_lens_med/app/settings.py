"""How LLMXAI is served: where, to whom, and within which limits. Frozen, checked here.

On loopback everyone who can open a page on this machine may read. Any other address needs a token, which is made here
when none is given.
"""

import ipaddress
import secrets
import socket
from dataclasses import dataclass, field

from sae_lens_med.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LEAST_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """What `create_app` and `serve` need to know."""

    host: str = "127.0.0.1"
    """The address to listen on."""
    port: int = 0
    """0: a free one."""
    token: str = ""
    """What a reader has to show; made where `host` is not loopback, empty otherwise."""
    write_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """What a page of this process sends along when it writes."""
    page_size: int = 50
    """Cases on one page of the list."""
    groups_of: int = 5
    """Features shown of each group of a case."""
    rating_only: bool = False
    """Whether the pages of raters are all that is served: then nobody can look up where a text comes from."""
    shown_characters: int = 20_000
    """Of one text; the rest is shown when asked for."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"a port is a number from 0 to 65535, got {self.port}.")
        if not self.host or any(c.isspace() or c in "/@?#" for c in self.host):
            raise ConfigError(f"{self.host!r} is no address to listen on; give one such as 127.0.0.1 or 0.0.0.0.")
        for name, least, most in (("page_size", 1, 500), ("groups_of", 1, 100), ("shown_characters", 100, 10**7)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must lie between {least} and {most}, got {getattr(self, name)}.")
        if not self.is_loopback and not self.token:
            object.__setattr__(self, "token", secrets.token_urlsafe(_LEAST_TOKEN))
        if self.token and len(self.token) < _LEAST_TOKEN:
            raise ConfigError(f"a token needs {_LEAST_TOKEN} characters or more, this one has {len(self.token)}.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host in LOOPBACK:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def may_be_called(self, host: str) -> bool:
        """Whether a request's `Host`, without its port, is a name of this server: loopback names on loopback; elsewhere
        any address, the name it was told to listen on, and the machine's own name."""
        name = host.strip("[]").lower()
        if self.is_loopback:
            return name in (*LOOPBACK, self.host.lower())
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {each.lower() for each in ("localhost", self.host, socket.gethostname())}
        return True

    def url(self, port: int) -> str:
        """What to open in a browser, the token included."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")
