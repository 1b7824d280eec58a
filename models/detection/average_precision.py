"""Mean average precision as COCO defines it, by its own evaluation code (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fxopt.errors import DataError
from fxopt.models.detection.targets import PADDING

MOST = 100
"""Most detections of an image that count."""


def mean_average_precision(
    found: Sequence[dict[str, Any]], boxes: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """``mAP@50``, ``mAP@50:95``, and for each class its ``AP@50``, 0 to 1, over whole images.

    ``found`` has for each image a dict of ``boxes`` [n,4] (left, top, right, bottom), ``scores`` [n] and ``labels`` [n];
    ``boxes`` [N,M,4] and ``labels`` [N,M] are the truth, with PADDING for rows without a box. Classes of which the truth has
    none do not count. Raises DataError without pycocotools, or where there is not one such dict for each image.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise DataError("mAP is computed by pycocotools", way_out="pip install 'fxopt[detection]'") from error
    if len(found) != len(boxes):
        raise DataError("the metric needs the objects of every image", expected=str(len(boxes)), got=str(len(found)))
    image, row = (labels != PADDING).nonzero(as_tuple=True)
    truth = np.concatenate([boxes[image, row].numpy(), image[:, None], labels[image, row][:, None]], 1)
    rows = np.concatenate([_rows(i, each) for i, each in enumerate(found)])
    if not len(rows):
        return dict.fromkeys(["mAP@50", "mAP@50:95", *(f"AP@50 {name}" for name in classes)], 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(boxes))],
            "categories": [{"id": i} for i in range(len(classes))],
            "annotations": [
                {"id": i, "image_id": int(image), "category_id": int(label), "iscrowd": 0}
                | {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
                for i, (left, top, right, bottom, image, label) in enumerate(truth.tolist(), 1)
            ],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # thresholds of IoU from 0.5 to 0.95, of recall, and classes
    figures = {"mAP@50": _mean(precision[0]), "mAP@50:95": _mean(precision)}
    return figures | {f"AP@50 {name}": _mean(precision[0, :, i]) for i, name in enumerate(classes)}


def _rows(image: int, found: dict[str, Any]) -> Any:
    """Detections of an image as pycocotools reads them: image, left, top, width, height, score, class."""
    boxes, scores, labels = (np.asarray(found.get(key), np.float64) for key in ("boxes", "scores", "labels"))
    if boxes.shape != (len(labels) if labels.ndim else -1, 4) or scores.shape != labels.shape:
        got = {key: np.shape(value) for key, value in found.items()}
        raise DataError(
            f"image {image}: the tail gave no objects", expected="boxes [n, 4], scores [n], labels [n]", got=str(got)
        )
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([np.full((len(boxes), 1), image), boxes[:, :2], sizes, scores[:, None], labels[:, None]], 1)


def _mean(precision: Any) -> float:
    """The mean over what is defined; 0 where nothing is."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0
