"""Segmentation scores by the rules of the BraTS organisers; `segmentation` lists them."""

from raum_lightning.metrics.segmentation import METRICS, RULES, SegmentationMetrics, check_names, score

__all__ = ["METRICS", "RULES", "SegmentationMetrics", "check_names", "score"]
