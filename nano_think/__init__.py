"""nano_think: train, take apart and compare small language models made of different kinds of experts."""

__version__ = "0.1.0"
__all__ = ["__version__"]
