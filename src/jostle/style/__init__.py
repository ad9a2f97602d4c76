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
from jostle.style.domains import as_domain, load_domain, load_domains
from jostle.style.evaluate import Interval, Summary, Trial, paired, proxy_a_distance, summarise, t_interval
from jostle.style.insertion import Inserted, enabled, insert, param_groups, places, scales, style_layers
from jostle.style.layers import DSU, EFDMix, MixStyle, PAdaIN, StyleLayer
from jostle.style.protocol import METHODS, Domain, Method, Protocol, dg_benchmark, fit, scale_report, trial
from jostle.style.restyle import batch_uncertainty, channel_statistics, grad_reverse, restyle

__all__ = [
    "DSU",
    "METHODS",
    "AdvStyle",
    "Domain",
    "EFDMix",
    "Inserted",
    "Interval",
    "Method",
    "MixStyle",
    "PAdaIN",
    "Protocol",
    "Reference",
    "StyleCurve",
    "StyleLayer",
    "Summary",
    "Trial",
    "WorstStyle",
    "as_domain",
    "batch_uncertainty",
    "channel_statistics",
    "check_scales",
    "dg_benchmark",
    "enabled",
    "fit",
    "fit_reference",
    "grad_reverse",
    "insert",
    "load_domain",
    "load_domains",
    "paired",
    "param_groups",
    "places",
    "proxy_a_distance",
    "restyle",
    "scale_report",
    "scales",
    "style_curve",
    "style_layers",
    "summarise",
    "t_interval",
    "trial",
    "worst_style",
]
