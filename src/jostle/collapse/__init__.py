"""Neural collapse: every usual metric of it, and how it answers a nudge."""

from jostle.collapse.accumulator import Accumulator
from jostle.collapse.flow import Flow
from jostle.collapse.geometry import Energies, bank, decompose, etf, frame, procrustes_frame
from jostle.collapse.metrics import metrics
from jostle.collapse.minimise import Minimum
from jostle.collapse.objective import Collapsed
from jostle.collapse.report import NCReport
from jostle.collapse.response import Factors, Response, factors
from jostle.collapse.spectrum import Level
from jostle.collapse.tied import TiedModel
