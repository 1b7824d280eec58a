"""Masks of drawn scenes, the mean intersection over union, and the network of shape_masks on every backend."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fxopt
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.errors import DataError, OptionError
from fxopt.models.detection.targets import PADDING
from fxopt.models.scene_images import draw_masks, draw_scenes
from fxopt.models.segmentation.data import IGNORED, SegmentationImages
from fxopt.models.shape_masks import CLASSES, masks_net
from fxopt.target import host
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


def test_masks_are_of_the_scenes_of_the_same_seed():
    images, masks = draw_masks(300, 48, 3)
    scenes = draw_scenes(300, 48, 3)
    assert torch.equal(images, scenes.images)
    seen = {len(CLASSES): 0}
    for mask, boxes, labels in zip(masks, scenes.boxes, scenes.labels, strict=True):
        there = labels != PADDING
        assert set(mask.unique().tolist()) <= {0, *(labels[there] + 1).tolist()}
        if there.sum() == 1:
            rows, columns = np.nonzero(mask.numpy())
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(found) - boxes[there][0].numpy()).max() <= 1.5, "as far as half pixels go"
            seen[int(labels[there])] = 1
    assert sum(seen.values()) >= 4, "scenes with one shape alone"


def test_mirrored_images_keep_their_masks():
    """Where the mask has an edge there is one in the image, and not in the image as it was before."""
    images, masks = draw_masks(8, 32, 0)
    data = SegmentationImages(lambda: {"train": (images, masks)}, CLASSES)
    kinds = set()
    for (some,), wanted in data.batches("train", batch_size=3, seed=1):
        for image, mask in zip(some, wanted, strict=True):
            row = next(
                i for i, each in enumerate(masks.long()) if torch.equal(each, mask) or torch.equal(each.flip(1), mask)
            )
            mirrored = not torch.equal(masks[row].long(), mask)
            stored = images[row].float()
            like = [float(_correlation(image, each)) for each in (stored, stored.flip(2))]
            assert like[mirrored] > max(0.99, like[not mirrored])
            kinds.add(mirrored)
    assert kinds == {False, True}


def _correlation(a, b):
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return a @ b / (a.norm() * b.norm())


def test_the_metric_is_the_jaccard_score_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (5, 8, 8), generator=draw)
    masks[torch.rand(5, 8, 8, generator=draw) < 0.2] = IGNORED
    answers = torch.randn(5, 5, 8, 8, generator=draw)
    data = SegmentationImages(lambda: {"test": (torch.zeros(5, 3, 8, 8), masks)}, tuple("abcde"))
    figures = data.figures(lambda _: answers.numpy())
    there = masks != IGNORED
    want, got = masks[there], answers.argmax(1)[there]
    each = metrics.jaccard_score(want, got, average=None, labels=range(5))
    assert figures["mIoU"] == pytest.approx(each.mean())
    assert [figures[f"IoU {name}"] for name in "abcde"] == pytest.approx(each.tolist())
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(want, got))


def test_a_class_that_is_nowhere_counts_in_no_mean():
    masks, answers = torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 3, 2, 2)
    answers[:, 0] = 1
    data = SegmentationImages(lambda: {"test": (torch.zeros(1, 3, 2, 2), masks)}, ("a", "b", "c"))
    assert data.evaluate(lambda _: answers) == 1


def test_pixels_without_a_class_cost_nothing():
    masks, answers = torch.tensor([[[0, IGNORED], [1, IGNORED]]]), torch.randn(1, 2, 2, 2)
    data = SegmentationImages(lambda: {}, ("a", "b"))
    before = data.loss(answers, masks)
    answers[..., 1] += torch.randn(1, 2, 2) * 9
    assert torch.equal(data.loss(answers, masks), before)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.zeros(4, 8, 7, dtype=torch.uint8), "do not fit images [4, 3, 8, 8]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "do not fit images [4, 3, 8, 8]"),
        (torch.full((4, 8, 8), 2), "a mask holds 2, and there are classes 0 to 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, words):
    data = SegmentationImages(lambda: {"test": (torch.zeros(4, 3, 8, 8), masks)}, ("a", "b"))
    with pytest.raises(DataError) as caught:
        data.evaluate(lambda images: images)
    assert words in str(caught.value)


@pytest.mark.parametrize("options", ["size=16", "size=40", "examples=7"])
def test_wrong_options_are_refused(options):
    with pytest.raises(OptionError, match=options):
        find_workload(f"shape_masks({options})")


def test_halves_of_validation_are_all_of_it():
    data = find_workload("shape_masks(size=32, examples=64)").data
    halves = [data.half(index).load()["validation"][0] for index in (0, 1)]
    whole = data.load()["validation"][0]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)


def test_what_meets_at_a_skip_of_a_u_net_is_narrowed_by_proof():
    """Channels of a skip and those beside it leave the convolution that reads both, each by its own indices."""
    workload = find_workload("shape_masks(size=32, examples=64)")
    program = replace(workload, model=lambda: masks_net().eval()).capture()
    run = fxopt.Pipeline.parse("zero_channels(macs=0.5, by='l2'), shrink").run(program, workload=workload)
    zeroed, shrunk = run.steps
    assert shrunk.cost.macs <= 0.5 * run.before.macs
    assert shrunk.findings.error < 1e-9
    assert zeroed.cost.macs == run.before.macs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "tvm", "executorch"])
def test_int8_costs_less_than_two_points_on_every_backend(name, tmp_path):
    workload, backend, target = find_workload("shape_masks(examples=1200)"), find_backend(name), host()
    if reason := backend.cannot_build(target):
        pytest.skip(reason)
    program = workload.capture()
    passes = fxopt.Pipeline.parse("quantize(images=32)")
    made = passes.run(program, workload=workload, watchers=(), backend=backend, target=target).program
    _, artifact = lower(made, backend, target, tmp_path, workload=replace(workload))
    want, got = (workload.data.evaluate(run, "test") for run in (program, artifact))
    assert want - got < 0.02
