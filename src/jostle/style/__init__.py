"""AdvStyle and its relatives: style noise for domain generalisation, pluggable into any network."""

from jostle.style.advstyle import AdvStyle, check_scales
from jostle.style.attack import (
    Reference,
    StyleCurve,
    WorstStyle,
    fit_reference,
    style_curve,
    worst_style,
)
from jostle.style.diagnostics import adversarial_gap, check_optimiser, scale_report
from jostle.style.domains import Domain, as_domain, load_domain, load_domains
from jostle.style.evaluate import Summary, Trial, paired, proxy_a_distance, summarise
from jostle.style.identify import retrieval_trial
from jostle.style.insertion import Inserted, enabled, insert, param_groups, places, scales, style_layers
from jostle.style.layers import DSU, EFDMix, MixStyle, PAdaIN, StyleLayer
from jostle.style.methods import METHODS, Method
from jostle.style.protocol import Protocol, dg_benchmark, fit, trial
from jostle.style.restyle import batch_uncertainty, channel_statistics, grad_reverse, restyle
from jostle.style.retrieval import Retrieval, embed, persons, rank, retrieve
from jostle.style.verbs import Bench, Trained, ablate, attack, bench, report, train

VERBS = (train, bench, ablate, attack, retrieve, report)

__all__ = [
    "DSU",
    "METHODS",
    "VERBS",
    "AdvStyle",
    "Bench",
    "Domain",
    "EFDMix",
    "Inserted",
    "Method",
    "MixStyle",
    "PAdaIN",
    "Protocol",
    "Reference",
    "Retrieval",
    "StyleCurve",
    "StyleLayer",
    "Summary",
    "Trained",
    "Trial",
    "WorstStyle",
    "ablate",
    "adversarial_gap",
    "as_domain",
    "attack",
    "batch_uncertainty",
    "bench",
    "channel_statistics",
    "check_optimiser",
    "check_scales",
    "dg_benchmark",
    "embed",
    "enabled",
    "fit",
    "fit_reference",
    "grad_reverse",
    "insert",
    "load_domain",
    "load_domains",
    "paired",
    "param_groups",
    "persons",
    "places",
    "proxy_a_distance",
    "rank",
    "report",
    "restyle",
    "retrieval_trial",
    "retrieve",
    "scale_report",
    "scales",
    "style_curve",
    "style_layers",
    "summarise",
    "train",
    "trial",
    "worst_style",
]
