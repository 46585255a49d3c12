"""Numbers and names as people read them."""

import math
from typing import Any, TypeGuard

from nano_think.core.progress import format_seconds

NOTHING = "–"


def known(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def fixed(value: float | None, digits: int = 3) -> str:
    """Bits per byte, a loss, a weight: a fixed number of decimals."""
    return f"{value:.{digits}f}" if known(value) else NOTHING


def count(value: float | None) -> str:
    """12,345"""
    return f"{value:,.0f}" if known(value) else NOTHING


def short(value: float | None) -> str:
    """12,345 as 12.3k, 12,345,678 as 12.3M: for axes and headlines."""
    if not known(value):
        return NOTHING
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """Bytes as B, kB, MB or GB (powers of ten)."""
    if not known(value):
        return NOTHING
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit * 0.9995:
            return f"{value / unit:.{_decimals(value / unit)}f} {name}"
    return f"{value:.0f} B"


def power_of_two(exponent: int) -> str:
    """2^exponent bytes as B, KiB, MiB or GiB: the limits of a histogram's bins."""
    step = min(exponent // 10, 3)
    return f"{2 ** (exponent - 10 * step)} {('B', 'KiB', 'MiB', 'GiB')[step]}"


def _decimals(value: float) -> int:
    """Three significant digits from 1 to 999."""
    return 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0


def seconds(value: float | None) -> str:
    """0.42 s, 4.2 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if not known(value):
        return NOTHING
    if value < 9.95:
        return f"{value:.1f} s" if value >= 0.995 else f"{value:.2f} s"
    return format_seconds(value)


def share(value: float | None) -> str:
    """0.123 as 12%; less than half a per cent keeps a decimal."""
    if not known(value):
        return NOTHING
    return f"{value:.1%}" if 0 < value < 0.005 else f"{value:.0%}"


def apart(value: float, other: float) -> str:
    """How `value` differs from `other`, sign as it is: "1.8% lower", "0.3% higher", "the same"."""
    change = value / other - 1 if other else math.nan
    if not known(change):
        return "not comparable"
    if abs(change) < 0.0005:
        return "the same to 0.1%"
    return f"{abs(change):.1%} {'lower' if change < 0 else 'higher'}"


def name(value: str) -> str:
    """A registered name in prose: state_space is the state space expert."""
    return value.replace("_", " ")


def moment(iso: str) -> str:
    """2026-01-31T12:00:59+00:00 as 2026-01-31 12:00 UTC; anything else as it is."""
    return f"{iso[:10]} {iso[11:16]} UTC" if len(iso) >= 16 and iso[10] in "T " else iso


def listed(words: list[str]) -> str:
    """a; a and b; a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else NOTHING
