"""Segmentation scores by the rules of the BraTS organisers; `segmentation` lists them."""

from raum_lightning.metrics.segmentation import METRICS, SegmentationMetrics, score

__all__ = ["METRICS", "SegmentationMetrics", "score"]
