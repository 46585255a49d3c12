"""Configurations without the checks of the library, which an exported one has passed."""


class Config:
    """Base of every configuration."""

    __slots__ = ()
