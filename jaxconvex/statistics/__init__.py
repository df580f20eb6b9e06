"""What a score is worth: intervals, jackknife, bootstrap, permutation null, comparisons; measures beside it."""

from jaxconvex.statistics.bootstrapping import BootstrapScore, bootstrap
from jaxconvex.statistics.comparison import Peak, holm, paired_difference, peak_layer
from jaxconvex.statistics.concept_errors import concept_jackknife, concept_null
from jaxconvex.statistics.correlation import Correlation, domain_correlation, pearson, spearman
from jaxconvex.statistics.geometry import cka, intrinsic_dimension, mutual_knn
from jaxconvex.statistics.intervals import Interval, jackknife
from jaxconvex.statistics.labelled import (
    knn_accuracy,
    label_overlap,
    linear_probe,
    nearest_neighbour_vote,
    neural_collapse,
    silhouette,
)
from jaxconvex.statistics.measures import hubness, random_label_score
from jaxconvex.statistics.permutation import Null, NullScore, permutation_null
from jaxconvex.statistics.resampling import JackknifeScore, Replicates, graph_jackknife, jackknife_groups

__all__ = [
    "BootstrapScore",
    "Correlation",
    "Interval",
    "JackknifeScore",
    "Null",
    "NullScore",
    "Peak",
    "Replicates",
    "bootstrap",
    "cka",
    "concept_jackknife",
    "concept_null",
    "domain_correlation",
    "graph_jackknife",
    "holm",
    "hubness",
    "intrinsic_dimension",
    "jackknife",
    "jackknife_groups",
    "knn_accuracy",
    "label_overlap",
    "linear_probe",
    "mutual_knn",
    "nearest_neighbour_vote",
    "neural_collapse",
    "paired_difference",
    "peak_layer",
    "pearson",
    "permutation_null",
    "random_label_score",
    "silhouette",
    "spearman",
]
