"""The Python API: what `import tfdetect` offers, and what the commands call.

    import tfdetect

    detector = tfdetect.load("saved_models/cifake_small_resnet")
    for row in detector.predict(["a.jpg", image_array]):
        print(row["path"], row["verdict"], row["p_fake"])

    run = tfdetect.train("path/to/folder", overrides={"training.epochs": 5})
    print(run.metrics["test"]["auc"])

Everything works without TensorFlow until a model is needed. A mistake of the caller raises
`UserError`, whose message says what to do. Messages go to stderr; pass `log=lambda text: None`
and `progress=False` to silence them.
"""

from tfdetect.api.benchmark_functions import BenchmarkResults, benchmark, list_benchmarks
from tfdetect.api.data_functions import audit, fix, prepare, synthesize
from tfdetect.api.detect import Detector, Predictions, load
from tfdetect.api.evaluation_functions import (
    calibrate,
    compare,
    evaluate,
    measure_robustness,
    remeasure,
)
from tfdetect.api.evidence_functions import evidence
from tfdetect.api.explanation_functions import explain, show_front_ends
from tfdetect.api.export_functions import export, export_web
from tfdetect.api.model_functions import (
    create_detector,
    list_backbones,
    list_datasets,
    list_detectors,
    list_experiments,
)
from tfdetect.api.results import EvaluationResults, Results
from tfdetect.api.share import push
from tfdetect.api.study_functions import (
    MatrixResults,
    StudyResults,
    cluster_generators,
    compare_variants,
    learning_curve,
    matrix,
)
from tfdetect.api.training_functions import (
    SearchResults,
    convert,
    ensemble,
    search,
    train,
)
from tfdetect.core.errors import UserError
from tfdetect.core.metric import Metric
from tfdetect.core.plugins import load_plugin
from tfdetect.core.register import (
    register_augmentation,
    register_backbone,
    register_front_end,
    register_head,
    register_loss,
    register_mask_head,
)
from tfdetect.core.run import Run
from tfdetect.core.spark_cluster import SparkCluster

__all__ = [
    "BenchmarkResults",
    "Detector",
    "EvaluationResults",
    "MatrixResults",
    "Metric",
    "Predictions",
    "Results",
    "Run",
    "SearchResults",
    "SparkCluster",
    "StudyResults",
    "UserError",
    "audit",
    "benchmark",
    "calibrate",
    "cluster_generators",
    "compare",
    "compare_variants",
    "convert",
    "create_detector",
    "ensemble",
    "evaluate",
    "evidence",
    "explain",
    "export",
    "export_web",
    "fix",
    "learning_curve",
    "list_backbones",
    "list_benchmarks",
    "list_datasets",
    "list_detectors",
    "list_experiments",
    "load",
    "load_plugin",
    "matrix",
    "measure_robustness",
    "prepare",
    "push",
    "register_augmentation",
    "register_backbone",
    "register_front_end",
    "register_head",
    "register_loss",
    "register_mask_head",
    "remeasure",
    "search",
    "show_front_ends",
    "synthesize",
    "train",
]
