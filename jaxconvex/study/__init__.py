"""The experiment: pretraining without labels, a probe, fine-tuning, and convexity of the layers of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxconvex._internal.lazy import on_demand

if TYPE_CHECKING:
    from jaxconvex.study.domains import Domain, domain, read_domains
    from jaxconvex.study.experiment import run_study
    from jaxconvex.study.results import Study, read_study

__all__ = ["Domain", "Study", "domain", "read_domains", "read_study", "run_study"]

# On demand, since a study trains networks, and its results are read without.
__getattr__, __dir__ = on_demand(
    __name__,
    {
        "domains": "Domain domain read_domains",
        "experiment": "run_study",
        "results": "Study read_study",
    },
)
