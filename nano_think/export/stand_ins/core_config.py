"""Configurations without the checks of the library, which an exported one has passed."""


class Config:
    """Base of every configuration."""

    __slots__ = ()

    def at_least(self, least: int, *names: str) -> None:
        """What the library has checked."""
