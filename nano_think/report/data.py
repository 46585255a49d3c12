"""What a report is made of: plain values, read off artifacts by whoever calls; most may be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

Named = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything that the page shows. Texts, domains and file names in it are not trusted."""

    preset: str
    """Name of the preset."""
    created: str
    """When the run's last artifact was finished (UTC, ISO 8601)."""
    seconds: float | None = None
    """Wall clock of all stages (seconds)."""
    experts: Sequence[str] = ()
    """Names of the experts, in the order of a token's weights."""
    sources: Sequence[Named] = ()
    """{name, domain, licence, origin, documents, bytes} of each source; "stands_in_for": datasets in whose place it was
    read."""
    left_out: Sequence[Named] = ()
    """{name, domain, why} of each dataset that was asked for and could not be read, and nothing in its place."""
    splits: Mapping[str, Named] = field(default_factory=dict)
    """Split -> {documents, bytes, domains: {domain: {documents, bytes}}}."""
    tokens: Mapping[str, Named] = field(default_factory=dict)
    """Split -> {tokens, documents, bytes, domains}."""
    vocabulary: int | None = None
    """Entries of the tokenizer (tokens)."""
    cleaning: Mapping[str, int] = field(default_factory=dict)
    """Step of the cleaning -> how often it acted."""
    lengths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Domain -> {k: documents of 2^k to 2^(k+1) - 1 bytes}."""
    curves: Mapping[str, Sequence[Named]] = field(default_factory=dict)
    """Training -> its log: {step, tokens, loss, further named terms}; losses in nats per token."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Part -> parameters."""
    costs: Mapping[str, Named] = field(default_factory=dict)
    """Scorer -> {parameters, flops, seconds, critical} of `report.costs.costs`."""
    dense: Named = field(default_factory=dict)
    """The dense control: {parameters, flops, tokens, epochs, shape: {n_layers, n_heads, inner}, mixture: {parameters,
    flops}}; the last is what it was to be equal to."""
    results: Named = field(default_factory=dict)
    """The figures of `evaluation.bits_per_byte.summarise`, and "routing": {"by_domain": {domain: {expert: weight}}} and
    what `evaluation.routing.Routing.figures` found."""
    samples: Sequence[Named] = ()
    """{prompt, text, tokens: [{text, weights}], seed, temperature}; text and tokens follow the prompt."""
    times: Mapping[str, Named] = field(default_factory=dict)
    """Stage, in order -> {seconds, fresh}; fresh: the artifact was up to date, and nothing was rebuilt."""
    config: Named = field(default_factory=dict)
    """The resolved configuration."""
    compute: Mapping[str, Named] = field(default_factory=dict)
    """Training -> device, dtype, threads and the like."""
    artifacts: Mapping[str, Named] = field(default_factory=dict)
    """Stage -> {key, digest}."""
    versions: Named = field(default_factory=dict)
    """Package -> version."""

    def __post_init__(self) -> None:
        """None in the place of a collection is an empty one."""
        for one in fields(self):
            if getattr(self, one.name) is None and one.default is not None:
                empty = one.default if one.default_factory is MISSING else one.default_factory()
                object.__setattr__(self, one.name, empty)
