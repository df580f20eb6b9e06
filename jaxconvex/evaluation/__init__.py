"""From representations and labels to a report.

label_values -> labelings                                                              labels of any kind
labelings, layer_sources -> layer_scores -> score_rows -> report -> evaluation        all layers, all labelings
                                                       -> comparison -> sentences     two reports, and both in sentences
scores.intrusions -> beside -> intrusion_rows -> why                                   why scores are not 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconvex._internal.lazy import on_demand

if TYPE_CHECKING:
    from jaxconvex.evaluation.comparison import Comparison, Difference, compare_reports, read_comparison
    from jaxconvex.evaluation.evaluation import evaluate
    from jaxconvex.evaluation.intrusion_rows import IntrusionRow, PointRow
    from jaxconvex.evaluation.measure_rows import MeasureRow
    from jaxconvex.evaluation.report import Report, Row, read_report
    from jaxconvex.evaluation.sentences import Findings, findings

__all__ = ["Comparison", "Difference", "Findings", "IntrusionRow", "MeasureRow", "PointRow", "Report", "Row"]
__all__ += ["compare_reports", "evaluate", "findings", "read_comparison", "read_report"]

# On demand, since a report is read without JAX.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "comparison": "Comparison Difference compare_reports read_comparison",
        "evaluation": "evaluate",
        "intrusion_rows": "IntrusionRow PointRow",
        "measure_rows": "MeasureRow",
        "report": "Report Row read_report",
        "sentences": "Findings findings",
    },
)
