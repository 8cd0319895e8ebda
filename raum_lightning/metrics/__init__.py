"""Segmentation scores by the rules of the BraTS organisers; `measures` and `rules` list them."""

from raum_lightning.metrics.measures import METRICS, explain, select
from raum_lightning.metrics.rules import DEFAULT, RULES, Rules, find_rules
from raum_lightning.metrics.segmentation import SegmentationMetrics, score

__all__ = ["DEFAULT", "METRICS", "RULES", "Rules", "SegmentationMetrics", "explain", "find_rules", "score", "select"]
