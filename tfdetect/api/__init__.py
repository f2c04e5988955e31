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
# ruff: noqa: F401

from tfdetect import __all__  # the list of names
from tfdetect.api.benchmark_functions import BenchmarkResults, benchmark, list_benchmarks
from tfdetect.api.data_functions import audit, fix, prepare, synthesize
from tfdetect.api.detect import Detector, load
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
from tfdetect.api.predictions import Predictions
from tfdetect.api.results import EvaluationResults, Results
from tfdetect.api.search_functions import SearchResults, search
from tfdetect.api.share import push
from tfdetect.api.study_functions import (
    MatrixResults,
    StudyResults,
    cluster_generators,
    compare_variants,
    learning_curve,
    matrix,
)
from tfdetect.api.training_functions import convert, ensemble, train
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
