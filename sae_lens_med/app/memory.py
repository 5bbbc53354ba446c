"""How the C library keeps memory that was freed, for a process that stays: less of it.

glibc gives threads arenas of their own, and each keeps what its greatest request took; and once one large array was
freed, it takes later ones from the heap, which it seldom gives back. Reading is done under Python's lock, so that one
arena for all threads costs no time. Elsewhere (macOS, musl) nothing is done.

Out of scope: what is kept on purpose (`cases`, `search`).
"""

import ctypes

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
"""Parameters of mallopt(3)."""
_LARGE = 1 << 18
"""Bytes from which on an allocation is one of its own, which goes back when it is freed."""


def keep_little() -> bool:
    """Set it for this process; to be called before it starts threads. Returns whether the library can do so."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    return all(library.mallopt(name, value) for name, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE)))
