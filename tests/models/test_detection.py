"""Detection: what is drawn, what is refused, losses and suppression beside torchvision's, mAP by hand, training."""

import functools
import importlib.util
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import fxopt
from fxopt.backend import find_backend
from fxopt.driver.lower import lower
from fxopt.errors import DataError, OptionError
from fxopt.models import train
from fxopt.models.detection.average_precision import mean_average_precision
from fxopt.models.detection.data import DetectionImages
from fxopt.models.detection.detect import CANDIDATES, LEAST_SCORE, OVERLAP, detect
from fxopt.models.detection.grid import positions
from fxopt.models.detection.loss import (
    assign,
    decode,
    detection_loss,
    focal,
    generalized_iou,
    soft_detection_loss,
)
from fxopt.models.detection.targets import PADDING, Scenes, check_scenes, pad_boxes
from fxopt.models.scene_images import draw_scenes
from fxopt.models.scene_shapes import SHAPES
from fxopt.models.shapes import WEIGHTS, shapes, shapes_net
from fxopt.models.vision_import import import_torchvision
from fxopt.target.detect import host
from fxopt.workload import find_workload

if importlib.util.find_spec("pycocotools") is None:
    pytest.skip("pycocotools is not installed", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("one_thread")


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- drawing -------------------------------------------------------------------------------------------------------


def test_scenes_are_those_of_their_seed():
    first, again, other = draw_scenes(20, 48, 3), draw_scenes(20, 48, 3), draw_scenes(20, 48, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("size", [32, 45, 96])
def test_scenes_of_any_size_pass_the_check_and_hold_every_class(size):
    scenes = draw_scenes(300, size, 0)
    check_scenes(scenes, len(SHAPES), "drawn")
    assert scenes.images.shape == (300, 3, size, size)
    there = scenes.labels != PADDING
    assert there.any(1).all()
    assert (there.sum(1).bincount(minlength=7)[1:] > 0).all(), "one to six shapes"
    share = scenes.labels[there].bincount() / there.sum()
    assert (share - 1 / len(SHAPES)).abs().max() < 0.06
    sides = (scenes.boxes[..., 2:] - scenes.boxes[..., :2])[there].amax(1) / size
    assert sides.max() / sides.min() > 3, "scale"


def test_boxes_bound_what_is_drawn():
    """Of scenes with one shape that stands out from its ground, by what differs from the ground."""
    scenes = draw_scenes(1500, 64, 1)
    alone = (scenes.labels != PADDING).sum(1) == 1
    found = {kind: [] for kind in range(len(SHAPES))}
    for image, boxes, labels in zip(*(value[alone] for value in scenes), strict=True):
        box = boxes[labels != PADDING][0]
        left, top, right, bottom = box.tolist()
        x = torch.arange(64) + 0.5
        inside = ((x > top) & (x < bottom))[:, None] & ((x > left) & (x < right))
        ground = image[:, ~inside].float().median(1).values[:, None, None]
        ink = (image.float() - ground).abs().amax(0) > 0.25 * 255
        if ink[~inside].float().mean() > 0.02:
            continue  # noisy, or lit unevenly
        ink &= torch.nn.functional.avg_pool2d(ink.float()[None], 3, 1, 1)[0] > 0.4
        rows, columns = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        if len(rows):
            seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
            found[int(labels[labels != PADDING])].append((seen - box).abs().amax())
    for errors in found.values():
        assert len(errors) > 5
        assert torch.stack(errors).median() < 1.6, "pixels; a sharp corner covers less than one"


# ---- the check of targets ------------------------------------------------------------------------------------------

GOOD = Scenes(
    torch.zeros(2, 3, 8, 16), torch.tensor([[[1.0, 2, 5, 7]], [[0, 0, 0, 0]]]), torch.tensor([[1], [PADDING]])
)


def _box(*sides):
    return GOOD._replace(boxes=torch.tensor([[sides], [(0, 0, 0, 0)]], dtype=torch.float32))


def _nan_image():
    images = GOOD.images.clone()
    images[1, 0, 3, 3] = float("nan")
    return GOOD._replace(images=images)


BAD = {
    "right of the image": (_box(1, 2, 17, 7), "image 0, box 0: it reaches out of the image, 16 wide and 8 high"),
    "above the image": (_box(1, -1, 5, 7), "image 0, box 0: it reaches out of the image"),
    "corners exchanged": (_box(5, 7, 1, 2), "image 0, box 0: it is empty"),
    "no area": (_box(1, 2, 1, 7), "image 0, box 0: it is empty"),
    "NaN": (_box(1, float("nan"), 5, 7), "image 0, box 0: it is not finite"),
    "class too high": (GOOD._replace(labels=torch.tensor([[2], [PADDING]])), "its class is none of the 2, 0 to 1"),
    "class below padding": (GOOD._replace(labels=torch.tensor([[-2], [PADDING]])), "its class is none of the 2"),
    "no box at all": (GOOD._replace(labels=torch.full((2, 1), PADDING)), "no image has a box"),
    "no image": (Scenes(*(value[:0] for value in GOOD)), "there are no images"),
    "no pixels": (GOOD._replace(images=torch.zeros(2, 3, 0, 16)), "there are no images, or they have no pixels"),
    "NaN in an image": (_nan_image(), "image 1 has values that are not finite"),
    "labels in float": (GOOD._replace(labels=GOOD.labels.float()), "labels whole ones"),
    "one label too many": (GOOD._replace(labels=torch.zeros(2, 2, dtype=torch.int64)), "the shapes do not match"),
    "boxes of one image": (GOOD._replace(boxes=GOOD.boxes[:1]), "the shapes do not match"),
}


@pytest.mark.parametrize("kind", BAD)
def test_targets_that_nothing_can_be_learned_from_are_refused(kind):
    scenes, words = BAD[kind]
    data = DetectionImages(lambda: {"train": scenes}, ("a", "b"), detection_loss, soft_detection_loss, detect)
    with pytest.raises(DataError) as caught:
        next(data.batches("train", batch_size=1))
    assert caught.value.what.startswith("split 'train': ")
    assert words in caught.value.what


def test_an_image_without_boxes_is_no_error():
    check_scenes(GOOD, 2, "here")
    padded = pad_boxes(
        GOOD.images, [torch.tensor([[1.0, 2, 5, 7]]), torch.zeros(0, 4)], [torch.tensor([1]), torch.zeros(0)]
    )
    assert all(torch.equal(a, b) for a, b in zip(padded, GOOD, strict=True))


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([torch.zeros(1, 4)], [torch.zeros(1)], "2 images have 1 lists of boxes and 1 of labels"),
        ([torch.zeros(1, 4), torch.zeros(2, 4)], [torch.zeros(1), torch.zeros(1)], "image 1: boxes and labels"),
        ([torch.zeros(1, 5), torch.zeros(0, 4)], [torch.zeros(1), torch.zeros(0)], "image 0: boxes and labels"),
        ([torch.zeros(1, 4), torch.zeros(0, 4)], [torch.tensor([-1]), torch.zeros(0)], "class -1 is that of padding"),
    ],
)
def test_lists_of_boxes_that_do_not_match_are_refused(boxes, labels, words):
    with pytest.raises(DataError, match=words):
        pad_boxes(GOOD.images, boxes, labels)


@pytest.mark.parametrize(("spec", "words"), [("shapes(size=31)", "size=31"), ("shapes(examples=7)", "examples=7")])
def test_wrong_options_of_shapes_are_refused(spec, words):
    with pytest.raises(OptionError, match=words):
        find_workload(spec)


# ---- batches -------------------------------------------------------------------------------------------------------


def test_mirrored_images_keep_their_boxes():
    data = find_workload("shapes(size=32, examples=32)").data
    scenes = draw_scenes(32, 32, 0)
    stored = scenes.images.float() / 63.75 - 2
    mirrored = 0
    for (images,), (boxes, labels) in data.batches("train", batch_size=8, seed=5):
        for image, box, label in zip(images, boxes, labels, strict=True):
            both = [_correlation(image, each) for each in (stored, stored.flip(3))]
            flipped, row = divmod(int(torch.cat(both).argmax()), len(stored))
            mirrored += flipped
            want = scenes.boxes[row]
            want = torch.stack([32 - want[:, 2], want[:, 1], 32 - want[:, 0], want[:, 3]], 1) if flipped else want
            there = label != PADDING
            assert torch.equal(label, scenes.labels[row])
            assert torch.allclose(box[there], want[there])
    assert 4 < mirrored < 28


def _correlation(image, others):
    a, b = image.flatten() - image.mean(), others.flatten(1) - others.flatten(1).mean(1, keepdim=True)
    return (b @ a) / (a.norm() * b.norm(dim=1))


def test_batches_without_a_seed_are_as_stored():
    data = find_workload("shapes(size=32, examples=32)").data
    parts = list(data.batches("train", batch_size=10))
    scenes = draw_scenes(32, 32, 0)
    assert [len(args[0]) for args, _ in parts] == [10, 10, 10, 2]
    assert torch.allclose(torch.cat([args[0] for args, _ in parts]), scenes.images.float() / 63.75 - 2, atol=1e-6)
    assert torch.equal(torch.cat([boxes for _, (boxes, _) in parts]), scenes.boxes)


# ---- losses --------------------------------------------------------------------------------------------------------


def _boxes(count, seed):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 60
    return torch.cat([corners.amin(1), corners.amax(1) + 1], 1)


def test_losses_are_those_of_torchvision():
    import_torchvision()
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    found, wanted = _boxes(50, 1), _boxes(50, 2)
    assert torch.allclose(1 - generalized_iou(found, wanted), generalized_box_iou_loss(found, wanted), atol=1e-6)
    logits, truth = 5 * _random(4, 6, 20), (_random(4, 6, 20, seed=1) > 1).float()
    assert torch.allclose(focal(logits, truth), sigmoid_focal_loss(logits, truth, reduction="sum"), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(64, 64), (40, 72)]))
def test_each_box_is_found_around_its_centre_and_the_smallest_wins(seed, size):
    scenes = draw_scenes(2, 32, seed)
    boxes, labels = scenes.boxes * min(size) / 32, scenes.labels
    got = assign(boxes, labels, size)
    centres, strides = positions(*size)
    for i in range(2):
        for p, ((x, y), stride) in enumerate(zip(centres.tolist(), strides.tolist(), strict=True)):
            claims = []
            for row, (left, top, right, bottom) in enumerate(boxes[i].tolist()):
                wide, high = right - left, bottom - top
                fits = max(wide, high) < 24 if stride == 8 else max(wide, high) >= 24
                near = abs(x - left - wide / 2) < stride and abs(y - top - high / 2) < stride
                if labels[i, row] >= 0 and fits and near:
                    claims.append((wide * high, row))
            assert int(got[i, p]) == (min(claims)[1] if claims else -1)


def test_a_batch_without_any_box_has_a_finite_loss_that_silences_the_classes():
    logits, codes = torch.zeros(2, 6, 80, requires_grad=True), torch.zeros(2, 4, 80, requires_grad=True)
    for boxes, labels in (
        (torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64)),
        (torch.zeros(2, 1, 4), torch.full((2, 1), PADDING)),
    ):
        loss = detection_loss((logits, codes), (boxes, labels), size=(64, 64))
        loss.backward()
        assert loss.isfinite()
        assert (logits.grad > 0).all()
        assert not codes.grad.any()


def test_right_outputs_have_less_loss_than_any_others():
    boxes, labels = torch.tensor([[[8.0, 8, 24, 28], [30, 20, 62, 50]]]), torch.tensor([[2, 4]])
    owner = assign(boxes, labels, (64, 64))
    centres, strides = map(torch.from_numpy, positions(64, 64))
    logits, codes = torch.full((1, 6, 80), -8.0), torch.zeros(1, 4, 80)
    for p in (owner[0] >= 0).nonzero().flatten().tolist():
        row = int(owner[0, p])
        logits[0, labels[0, row], p] = 8
        far = torch.cat([centres[p] - boxes[0, row, :2], boxes[0, row, 2:] - centres[p]])
        codes[0, :, p] = (far / strides[p]).log()
    loss = functools.partial(detection_loss, target=(boxes, labels), size=(64, 64))
    right = loss((logits, codes))
    assert right < 1e-3
    assert loss((logits, codes + 0.3)) > right + 0.1
    assert loss((logits.roll(1, 1), codes)) > right + 1
    (found,) = detect((logits, codes), torch.zeros(1, 3, 64, 64))
    assert sorted(found["labels"].tolist()) == [2, 4]
    assert np.allclose(found["boxes"][found["labels"].argsort()], boxes[0], atol=1e-3)


def test_soft_loss_is_least_at_the_teacher_and_ignores_boxes_of_nothing():
    teacher = 3 * _random(2, 6, 80), _random(2, 4, 80, seed=1)
    size = {"size": (64, 64)}
    at = soft_detection_loss(teacher, teacher, **size)
    assert at.abs() < 1e-5
    for logits, codes in ((teacher[0] + 0.5, teacher[1]), (teacher[0], teacher[1] + 0.3)):
        assert soft_detection_loss((logits, codes), teacher, **size) > at + 1e-2
    silent = torch.full((2, 6, 80), -30.0), teacher[1]
    assert soft_detection_loss((silent[0], silent[1] + 1), silent, **size) < 1e-5


# ---- the tail ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_suppression_is_that_of_torchvision(seed):
    import_torchvision()
    from torchvision.ops import batched_nms

    logits, codes = 2 * _random(3, 6, 80, seed=seed) - 1, _random(3, 4, 80, seed=seed + 1)
    found = detect((logits.numpy(), codes.numpy()), torch.zeros(3, 3, 64, 64))
    boxes = decode(codes, (64, 64)).clamp(0, 64)
    for i in range(3):
        scores, best = logits[i].sigmoid().flatten().topk(CANDIDATES)
        places, labels = best % 80, best // 80
        kept = batched_nms(boxes[i][places], scores, labels, OVERLAP)
        kept = kept[scores[kept] > LEAST_SCORE]
        assert np.array_equal(found[i]["labels"], labels[kept])
        assert np.allclose(found[i]["boxes"], boxes[i][places[kept]], atol=1e-3)
        assert np.allclose(found[i]["scores"], scores[kept], atol=1e-6)


def test_the_tail_needs_no_torch():
    code = "import sys, fxopt.models.detection.detect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_outputs_that_are_not_finite_are_no_objects():
    logits, codes = np.full((1, 6, 80), np.nan, np.float32), np.full((1, 4, 80), np.inf, np.float32)
    assert len(detect((logits, codes), torch.zeros(1, 3, 64, 64))[0]["scores"]) == 0


def test_the_program_ends_at_the_head_and_the_tail_gives_what_the_model_gives():
    workload = find_workload("shapes")
    program, model, images = workload.capture(), workload.model(), _random(3, 3, 64, 64)
    assert program.signature() == "(images: f32[batch,3,64,64]) -> (f32[batch,6,80], f32[batch,4,80])"
    got, want = fxopt.Tail(model, workload.until)(program(images), images), model(images)
    assert len(got) == len(want) == 3
    for ours, theirs in zip(got, want, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ("boxes", "scores", "labels"))


# ---- the metric ----------------------------------------------------------------------------------------------------


def _found(boxes, scores, labels):
    boxes = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4).numpy()
    return {"boxes": boxes, "scores": np.array(scores), "labels": np.array(labels)}


TRUTH = (
    torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40]], [[0, 0, 0, 0], [0, 0, 0, 0]]]),
    torch.tensor([[0, 0], [-1, -1]]),
)


def test_map_is_what_one_computes_by_hand():
    nothing = _found([], [], [])
    whole = _found(TRUTH[0][0], [0.9, 0.7], [0, 0])
    assert mean_average_precision([whole, nothing], *TRUTH, ("a", "b")) == {
        "mAP@50": 1, "mAP@50:95": 1, "AP@50 a": 1, "AP@50 b": 0,
    }  # fmt: skip
    wrong = _found([[0, 0, 5, 5]], [0.8], [0])
    # precision 1 up to a recall of a half, 51 of 101 points, and 2/3 from there on
    assert mean_average_precision([whole, wrong], *TRUTH, ("a", "b"))["mAP@50"] == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )
    shifted = _found([[0, 0, 10, 7], [20, 20, 40, 34]], [0.9, 0.7], [0, 0])  # IoU 0.7: 5 of 10 thresholds
    assert mean_average_precision([shifted, nothing], *TRUTH, ("a",))["mAP@50:95"] == pytest.approx(0.5)
    assert mean_average_precision([nothing, nothing], *TRUTH, ("a",))["mAP@50"] == 0


def test_the_metric_needs_the_objects_of_every_image():
    with pytest.raises(DataError, match="objects of every image"):
        mean_average_precision([_found([], [], [])], *TRUTH, ("a",))


@pytest.mark.parametrize("found", [{"boxes": np.zeros((1, 4))}, _found([[0, 0, 5, 5]], [0.8, 0.7], [0, 0]), {}])
def test_a_tail_that_gives_something_else_is_named(found):
    with pytest.raises(DataError, match="image 1: the tail gave no objects"):
        mean_average_precision([_found([], [], []), found], *TRUTH, ("a",))


# ---- training ------------------------------------------------------------------------------------------------------


def test_distillation_without_labels_follows_the_teacher():
    """From other weights than the teacher's, which is the trained model, by the loss that the data define."""
    workload = find_workload("shapes(examples=96)")
    losses = []

    def counted(output, teacher):
        losses.append(soft_detection_loss(output, teacher, size=(64, 64)))
        return losses[-1]

    workload = replace(workload, data=replace(workload.data, soft_criterion=counted))
    program = workload.capture()
    teacher = program.copy()
    torch.manual_seed(1)
    state = {f"net.{name}": value for name, value in shapes_net().state_dict().items()}
    program.set_tensors({n: state[n] for n, t in program.tensors().items() if isinstance(t, torch.nn.Parameter)})
    (images,), _ = next(workload.data.batches("validation", batch_size=12))

    def distance(student):
        with torch.no_grad():
            return float(workload.data.soft_loss(student(images), teacher(images)))

    passes = fxopt.Pipeline.parse("distill(teachers=('shapes',), soft=1.0, epochs=3, rate=3e-3, batch_size=16)")
    done = passes.run(program, workload=workload, watchers=()).program
    assert sum(loss.requires_grad for loss in losses) == 3 * 96 / 16
    assert distance(done) < 0.8 * distance(program)


def test_shipped_weights_of_shapes_are_as_good_as_their_metadata_say():
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["command"].startswith("python -m fxopt.models.train shapes ")
    assert int(metadata["epochs"]) == train.TRAININGS["shapes"].epochs
    workload = find_workload("shapes")
    data = replace(workload.data, load=lambda: {"validation": draw_scenes(625, 64, 1)})
    assert metadata["metric"] == data.metric
    found = data.evaluate(workload.capture(), "validation")
    assert found == pytest.approx(float(metadata["validation"]), abs=2e-3), "up to rounding"
    assert f"{sum(p.numel() for p in workload.model().parameters()) / 1e6:.1f} M parameters" in shapes.__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "tvm", "executorch"])
def test_int8_costs_less_than_two_points_on_every_backend(name, tmp_path):
    workload, backend, target = find_workload("shapes"), find_backend(name), host()
    if reason := backend.cannot_build(target):
        pytest.skip(reason)
    workload = replace(workload, data=replace(workload.data, load=_few))
    program = workload.capture()
    passes = fxopt.Pipeline.parse("quantize(images=32)")
    made = passes.run(program, workload=workload, watchers=(), backend=backend, target=target).program
    _, artifact = lower(made, backend, target, tmp_path, workload=workload)
    want, got = (workload.data.figures(run, "validation") for run in (program, artifact))
    assert want["mAP@50"] - got["mAP@50"] < 0.02


@functools.cache
def _few():
    return {"train": draw_scenes(64, 64, 0), "validation": draw_scenes(300, 64, 1)}
