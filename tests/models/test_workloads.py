"""The digits and glyphs workloads: data that stay the same, weights that do what they say, training that can be repeated."""

import hashlib
import importlib.util
import json
import signal
import struct
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from fxopt import registry
from fxopt.errors import DataError, OptionError, RecipeError, UnknownNameError
from fxopt.models import digits as digits_module
from fxopt.models import glyphs as glyphs_module
from fxopt.models import train
from fxopt.models.digits import digit_splits
from fxopt.models.glyph_images import ALPHABET, draw
from fxopt.models.glyphs import glyph_net
from fxopt.models.images import LabelledImages
from fxopt.models.nets import CharacterNet
from fxopt.models.weights import load_weights, save_weights
from fxopt.workload import find_workload

for package in ("sklearn", "PIL"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

SPLITS = ("train", "validation", "test")
SHIPPED = {"digits": digits_module, "glyphs": glyphs_module}


pytestmark = pytest.mark.usefixtures("one_thread")


def _whole(data, split):
    parts = [(args[0], target) for args, target in data.batches(split, batch_size=1000)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _sha(tensor, dtype):
    return hashlib.sha256(tensor.numpy().astype(dtype).tobytes()).hexdigest()[:16]


# ---- splits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["digits", "glyphs(examples=900)"])
def test_no_image_is_in_two_places(spec):
    data = find_workload(spec).data
    images = [image.numpy().tobytes() for split in SPLITS for image in _whole(data, split)[0]]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("spec", ["digits", "glyphs(examples=900)"])
def test_every_split_has_its_share_of_every_class(spec):
    counts = [_whole(find_workload(spec).data, split)[1].bincount() for split in SPLITS]
    share = sum(counts) / sum(counts).sum()
    for count in counts:
        assert (count - share * count.sum()).abs().max() <= 1.5


@pytest.mark.parametrize(
    ("spec", "sizes"), [("digits", [1047, 300, 450]), ("glyphs(size=8, examples=808)", [808, 101, 202])]
)
def test_splits_have_the_sizes_that_are_promised(spec, sizes):
    assert [len(_whole(find_workload(spec).data, split)[1]) for split in SPLITS] == sizes


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    want = Counter(
        (image.astype(int).tobytes(), int(label)) for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    got = Counter()
    for images, labels in digit_splits().values():
        grey = (images[:, 0] * 6.0 + 4.9).round().long().numpy()
        got.update((image.tobytes(), int(label)) for image, label in zip(grey, labels, strict=True))
    assert got == want


PINNED = {
    "train": ("40843ec5a1997263", "2595a88c26f6bc74"),
    "validation": ("f04b35671be74267", "3acb644044c4e9c0"),
    "test": ("e3452c6e88f0f147", "13be8853154ebc01"),
}


def test_the_digits_are_split_the_same_everywhere():
    splits = digit_splits.__wrapped__()  # not from the cache
    for split, (images, labels) in splits.items():
        assert (_sha((images * 6.0 + 4.9).round(), np.uint8), _sha(labels, np.int64)) == PINNED[split]


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'fxopt\[digits\]'"):
        digit_splits.__wrapped__()


# ---- drawing -------------------------------------------------------------------------------------------------------


def test_glyphs_are_those_of_their_seed():
    torch.manual_seed(1)
    first = draw(90, 16, ALPHABET, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = draw(90, 16, ALPHABET, seed=3), draw(90, 16, ALPHABET, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_glyphs_are_drawn_the_same_everywhere():
    images, labels = draw(90, 32, ALPHABET, seed=2)
    assert _sha(labels, np.int64) == "bbdf1f20999cf811"
    skewness = images[:6].pow(3).mean((1, 2, 3)).tolist()
    assert skewness == pytest.approx([1.06, 1.31, -1.30, -0.54, -1.29, 0.13], abs=0.05), "up to rounding"


@pytest.mark.parametrize("size", [8, 13, 40])
def test_glyphs_have_any_size_with_zero_mean_and_unit_variance(size):
    images, labels = draw(30, size, "ABCDE", seed=0)
    assert images.shape == (30, 1, size, size)
    assert labels.bincount().tolist() == [6] * 5
    pixels = images.numpy().reshape(30, -1)
    np.testing.assert_allclose(pixels.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(pixels.std(1, ddof=1), 1, atol=1e-5)
    assert glyph_net(5).eval()(images).shape == (30, 5)


def test_more_images_than_are_drawn_at_a_time():
    images, labels = draw(1001, 8, "AB", seed=0)
    assert len(images) == len(labels) == 1001


def test_the_default_is_32_pixels_and_many_classes():
    workload = find_workload("glyphs")
    assert workload.capture().signature() == "(images: f32[batch,1,32,32]) -> (f32[batch,45])"
    assert len(set(ALPHABET)) == 45


def test_other_classes_and_sizes_come_with_an_untrained_network_of_a_fixed_seed():
    workload = find_workload("glyphs(size=16, classes='XYZ', examples=24)")
    assert workload.capture().signature() == "(images: f32[batch,1,16,16]) -> (f32[batch,3])"
    torch.manual_seed(5)
    first = workload.model().state_dict()
    torch.manual_seed(6)
    again = workload.model().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ("(size=7)", OptionError, "size=7 is too small"),
        ("(size=16.0)", OptionError, r"glyphs\(size=…\): takes int, got 16.0"),
        (":big", OptionError, "glyphs:big: takes int, got 'big'"),
        ("(classes='A')", OptionError, "two or more different characters"),
        ("(classes='ABA')", OptionError, "two or more different characters"),
        ("(examples=44)", OptionError, "examples=44 is too few"),
        ("(classes='AB', examples=7)", OptionError, "examples=7 is too few"),
        ("(sizes=16)", UnknownNameError, "option of glyphs 'sizes'; did you mean 'size'"),
    ],
)
def test_wrong_options_of_glyphs_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        find_workload(f"glyphs{options}")


def test_the_fewest_examples_leave_something_to_judge_by():
    data = find_workload("glyphs(size=8, classes='AB', examples=8)").data
    assert data.evaluate(lambda images: np.eye(2)[[0] * len(images)], "validation") in (0, 1)


def test_glyphs_without_pillow_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'fxopt\[digits\]'"):
        draw(2, 9, "QX", seed=0)


# ---- batches -------------------------------------------------------------------------------------------------------


def _batches(seed, split="validation", batch_size=64):
    return [
        (args[0], labels)
        for args, labels in find_workload("digits").data.batches(split, batch_size=batch_size, seed=seed)
    ]


def test_batches_without_a_seed_are_as_stored():
    images, labels = digit_splits()["validation"]
    batches = _batches(None)
    assert [len(some) for some, _ in batches] == [64, 64, 64, 64, 44]
    assert torch.equal(torch.cat([some for some, _ in batches]), images)
    assert torch.equal(torch.cat([wanted for _, wanted in batches]), labels)


def test_batches_of_one_seed_are_the_same_and_of_another_are_not():
    first, again, other = _batches(1), _batches(1), _batches(2)
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], other[0][1])


def test_a_seed_leaves_the_stored_images_alone():
    before = digit_splits()["validation"][0].clone()
    _batches(1)
    assert torch.equal(digit_splits()["validation"][0], before)


def test_shuffled_images_keep_their_labels_though_they_are_augmented():
    images, labels = digit_splits()["validation"]
    shuffled = _batches(3)
    moved, wanted = (torch.cat(parts) for parts in zip(*shuffled, strict=True))
    distance = torch.cdist(moved.flatten(1), images.flatten(1))
    assert distance.min() > 0, "every image is changed"
    nearest = labels[distance.argmin(1)]
    assert (nearest == wanted).float().mean() > 0.95
    assert torch.equal(wanted.sort().values, labels.sort().values)
    assert not torch.equal(wanted, labels)


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="no split 'tset'; there are: train, validation, test"):
        next(find_workload("digits").data.batches("tset", batch_size=1))


@pytest.mark.parametrize("count", [5, 32, 96])
def test_calibration_is_the_first_training_images(count):
    batches = [args[0] for args in find_workload("digits").calibration(count, "a test")]
    assert torch.equal(torch.cat(batches), digit_splits()["train"][0][:count])


# ---- the metric ----------------------------------------------------------------------------------------------------

ANSWERS = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
FOUR = LabelledImages(lambda: {"test": (torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([1, 0, 0, 0]))})


@pytest.mark.parametrize(
    "wrap", [lambda v: v, torch.from_numpy, lambda v: (v,), lambda v: [torch.from_numpy(v)], lambda v: {"scores": v}]
)
def test_the_metric_is_the_share_of_right_answers_in_whatever_form(wrap):
    assert FOUR.evaluate(lambda images: wrap(ANSWERS[images.flatten().long().numpy()])) == 0.75


def test_two_outputs_have_no_metric():
    with pytest.raises(DataError, match="needs one output, the model gave 2"):
        FOUR.evaluate(lambda images: (ANSWERS, ANSWERS))


# ---- the networks --------------------------------------------------------------------------------------------------


def _convolutions(program):
    """Groups, inputs and outputs of every convolution."""
    for node in program.find("aten.conv2d"):
        outputs, per_group, *_ = node.args[1].meta["val"].shape
        groups = node.args[6] if len(node.args) > 6 else 1
        yield groups, per_group * groups, outputs


@pytest.mark.parametrize("name", SHIPPED)
def test_the_network_has_what_a_graph_pass_must_cope_with(name):
    program = find_workload(name).capture()
    convolutions = list(_convolutions(program))
    assert 10 <= len(convolutions) <= 30
    assert sum(groups == inputs == outputs > 1 for groups, inputs, outputs in convolutions) == 2, "depthwise"
    assert sum(1 < groups < inputs for groups, inputs, _ in convolutions) == 3, "grouped"
    counts = {op: len(list(program.find(f"aten.{op}"))) for op in ("batch_norm", "cat", "add", "avg_pool2d", "dropout")}
    assert counts["batch_norm"] == len(convolutions)
    assert (counts["cat"], counts["avg_pool2d"], counts["dropout"]) == (3, 3, 1)
    assert counts["add"] >= 6, "residual"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_network_has_the_size_that_its_manual_says(name):
    parameters = sum(p.numel() for p in find_workload(name).model().parameters())
    assert f"{parameters / 1e6:.1f} M parameters" in registry.get("workload", name).__doc__


# ---- shipped weights -----------------------------------------------------------------------------------------------


def _metadata(path):
    """Read by the format's own words: eight bytes of length, then JSON."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("name", ["digits", pytest.param("glyphs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_shipped_weights_are_as_good_as_their_metadata_say(name, split):
    workload = find_workload(name)
    count = len(_whole(workload.data, split)[1])
    promised = float(_metadata(SHIPPED[name].WEIGHTS)[split])
    reached = workload.data.evaluate(workload.model(), split)
    assert abs(reached - promised) * count < 1.5, "one image may fall on the other side by rounding"


def test_shipped_weights_read_glyphs_that_were_never_drawn_before():
    images, labels = draw(180, 32, ALPHABET, seed=1234)
    with torch.no_grad():
        answers = find_workload("glyphs").model()(images).argmax(1)
    promised = float(_metadata(SHIPPED["glyphs"].WEIGHTS)["test"])
    assert (answers == labels).float().mean() > promised - 0.06, "five standard deviations of 180 images"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_say_how_they_were_made(name):
    metadata = _metadata(SHIPPED[name].WEIGHTS)
    assert metadata["command"].startswith(f"python -m fxopt.models.train {name} --out ")
    assert int(metadata["epochs"]) == train.TRAININGS[name].epochs
    assert {"seed", "torch", "python", "metric"} <= set(metadata)


def _cut(path, to):
    path.write_bytes(digits_module.WEIGHTS.read_bytes()[:to])


UNFIT = {
    "missing": (lambda path: None, "there is no weights file"),
    "empty": (lambda path: path.touch(), "not a readable safetensors file"),
    "text": (lambda path: path.write_text("hello"), "not a readable safetensors file"),
    "a folder": (lambda path: path.mkdir(), "not a readable safetensors file"),
    "header cut": (lambda path: _cut(path, 1000), "not a readable safetensors file"),
    "data cut": (lambda path: _cut(path, -1000), "not a readable safetensors file"),
    "another net": (lambda path: save_weights(path, torch.nn.Linear(2, 2), {}), "does not fit the network"),
    "another size": (lambda path: path.write_bytes(glyphs_module.WEIGHTS.read_bytes()), "does not fit the network"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_weights_that_are_missing_or_unfit_name_the_file_and_the_command(kind, tmp_path, monkeypatch):
    path = tmp_path / "digits.safetensors"
    make, words = UNFIT[kind]
    make(path)
    monkeypatch.setattr(digits_module, "WEIGHTS", path)
    with pytest.raises(RecipeError, match=words) as caught:
        find_workload("digits").model()
    assert str(path) in str(caught.value)
    assert "python -m fxopt.models.train digits --out" in str(caught.value)


def test_glyphs_take_a_weights_file_of_the_users(tmp_path):
    torch.manual_seed(9)
    trained = glyph_net(3)
    save_weights(tmp_path / "mine.safetensors", trained, {})
    workload = find_workload(f"glyphs(classes='XYZ', weights={str(tmp_path / 'mine.safetensors')!r})")
    assert torch.equal(workload.model().head.weight, trained.head.weight)
    with pytest.raises(
        RecipeError, match=r"mine\.safetensors does not fit the network(.|\n)*fxopt.models.train glyphs"
    ):
        find_workload(f"glyphs(classes='WXYZ', weights={str(tmp_path / 'mine.safetensors')!r})").model()


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_training_command_writes_weights_and_what_it_did(tmp_path):
    python, *argv, out, _ = digits_module.COMMAND.split()  # as a message tells it
    assert (python, argv[-1], out) == ("python", "digits", "--out")
    assert glyphs_module.COMMAND.split()[:3] == [python, *argv[:2]]
    argv += ["--epochs", "1", "--threads", "1", "--out", "mine.safetensors"]
    done = subprocess.run([sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]
    metadata = _metadata(tmp_path / "mine.safetensors")
    assert metadata["command"] == " ".join(["python", *argv])
    assert (metadata["epochs"], metadata["seed"], metadata["torch"]) == ("1", "0", torch.__version__)
    assert f"validation {float(metadata['validation']):.4f}, test {float(metadata['test']):.4f}" in done.stdout
    net = digits_module.digit_net().eval()
    load_weights(tmp_path / "mine.safetensors", net, command="")
    reached = find_workload("digits").data.evaluate(net, "validation")
    assert abs(reached - float(metadata["validation"])) * 300 < 1.5


@pytest.fixture
def few_digits(monkeypatch):
    few = {split: (images[:96], labels[:96]) for split, (images, labels) in digit_splits().items()}
    monkeypatch.setattr(digits_module, "digit_splits", lambda: few)


@pytest.mark.usefixtures("few_digits")
def test_training_twice_gives_the_same_bytes_and_another_seed_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    for seed in ("0", "0", "1"):
        torch.rand(3)  # whatever came before
        train.main(["digits", "--epochs", "1", "--threads", "1", "--seed", seed, "--out", "a.safetensors"])
        made.append((tmp_path / "a.safetensors").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_folder_that_is_not_there_is_refused_before_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda *args, **kwargs: pytest.fail("trained for nothing"))
    with pytest.raises(SystemExit):
        train.main(["digits", "--out", str(tmp_path / "gone" / "a.safetensors")])
    assert "there is no folder" in capsys.readouterr().err


def test_the_state_that_did_best_in_validation_is_kept():
    images, labels = digit_splits()["train"]
    states = []

    class Scripted(LabelledImages):
        def evaluate(self, model, split="test"):
            states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return [0.2, 0.9, 0.4][len(states) - 1]

    data = Scripted(lambda: dict.fromkeys(SPLITS, (images[:32], labels[:32])))
    net = CharacterNet(10, widths=(8,), depth=(1,))
    best = train.fit(net, data, epochs=3, batch_size=16, rate=0.01, seed=0)
    assert all(torch.equal(best[name], states[1][name]) for name in best)
    assert not torch.equal(best["head.weight"], states[2]["head.weight"])


@pytest.mark.usefixtures("few_digits")
def test_the_best_state_is_the_one_that_is_saved_and_judged(tmp_path, monkeypatch):
    shipped = find_workload("digits").model().state_dict()
    monkeypatch.setattr(train, "fit", lambda model, *args, **kwargs: model.eval() and shipped)
    train.main(["digits", "--threads", "1", "--out", str(tmp_path / "a.safetensors")])
    net = digits_module.digit_net()
    load_weights(tmp_path / "a.safetensors", net, command="")
    assert all(torch.equal(net.state_dict()[name], shipped[name]) for name in shipped)
    assert float(_metadata(tmp_path / "a.safetensors")["test"]) > 0.9


def test_a_network_that_is_trained_knows_more_than_before():
    few = {split: (images[:320], labels[:320]) for split, (images, labels) in digit_splits().items()}
    data = LabelledImages(lambda: few)
    torch.manual_seed(0)
    net = digits_module.digit_net().eval()
    before = data.evaluate(net)
    train.fit(net, data, epochs=4, batch_size=16, rate=3e-3, seed=0)
    assert before < 0.25
    assert data.evaluate(net) > before + 0.3


# ---- a file that is being written ----------------------------------------------------------------------------------

WRITE = """
import resource, signal, sys
from pathlib import Path
from fxopt.models.digits import digit_net
from fxopt.models.weights import save_weights
net = digit_net()
signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[2]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
save_weights(Path(sys.argv[1]), net, {})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of a file can be set here")
@pytest.mark.parametrize("at_limit", [pytest.param("SIG_DFL", id="killed"), pytest.param("SIG_IGN", id="disk full")])
def test_the_old_file_survives_a_write_that_ends_in_the_middle(at_limit, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", WRITE, str(path), at_limit], capture_output=True, check=False)
    killed = at_limit == "SIG_DFL"
    assert done.returncode == (-signal.SIGXFSZ if killed else 1), done.stderr
    assert path.read_bytes() == b"old"
    found = tmp_path.glob("*.safetensors") if killed else tmp_path.iterdir()
    assert list(found) == [path]
