"""One seed for a run, and from it a tree of independent ones: every consumer names its own branch."""

import hashlib


def branch(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on the path of names, and on nothing else.

    >>> branch(1, "experts", "transformer") == branch(1, "experts", "transformer")
    True
    """
    path = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1
