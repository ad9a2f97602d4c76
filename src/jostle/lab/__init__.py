"""The lab turns a method into a study: presets, runs that resume, claims, reports, engines."""

from jostle.lab.claims import Claim
from jostle.lab.demo import tour
from jostle.lab.engines import parallel
from jostle.lab.processes import Processes
from jostle.lab.report import write_index, write_report
from jostle.lab.running import resume, run, start
from jostle.lab.runs import Partial, Run, Stage
from jostle.lab.study import Study
from jostle.lab.sweeps import sweep

__all__ = [
    "Claim",
    "Partial",
    "Processes",
    "Run",
    "Stage",
    "Study",
    "parallel",
    "resume",
    "run",
    "start",
    "sweep",
    "tour",
    "write_index",
    "write_report",
]
