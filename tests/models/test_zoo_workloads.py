"""The zoos' models as workloads: random weights that hide nothing, downloaded ones passed through, inputs that fit."""

import importlib.util
import socket
import subprocess
import sys
import types
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

from fxopt.errors import DataError, OptionError, RecipeError, UnknownNameError, UsageError
from fxopt.models.synthetic import SyntheticImages
from fxopt.models.vision_import import import_timm, import_torchvision
from fxopt.workload import find_workload

for package in ("torchvision", "timm"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Any look-up of a host fails at once, and nothing that was downloaded before is found."""

    def refuse(host, *args, **kwargs):
        raise socket.gaierror(f"no network: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


# ---- random weights ------------------------------------------------------------------------------------------------


def _slow(*specs):
    return [pytest.param(spec, marks=pytest.mark.slow) for spec in specs]


CLASSIFIERS = [
    "torchvision:mobilenet_v3_small(size=64)",
    "torchvision:squeezenet1_1(size=64)",
    "torchvision:densenet121(size=32)",
    "timm:test_convnext",
    "timm:test_vit",
    "timm:test_nfnet",
    "timm:mobilenetv3_small_050(size=64)",
    *_slow(
        "torchvision:convnext_tiny(size=64)", "torchvision:vit_b_16(size=64)", "torchvision:swin_v2_t(size=64)",
        "torchvision:efficientnet_v2_s(size=64)", "torchvision:googlenet(size=64)", "torchvision:inception_v3(size=96)",
        "torchvision:regnet_y_400mf(size=64)", "torchvision:mnasnet0_5(size=64)", "torchvision:maxvit_t",
        "timm:levit_128s", "timm:convnext_atto(size=64)", "timm:vit_tiny_patch16_224(size=64)", "timm:test_byobnet",
        "timm:ghostnet_100(size=64)", "timm:fastvit_t8(size=64)", "timm:resnet10t(size=64)",
    ),
]  # fmt: skip
OTHERS = [
    "torchvision:lraspp_mobilenet_v3_large(size=64)",
    "torchvision:mc3_18(size=32)",
    "torchvision:raft_small",
    *_slow(
        "torchvision:ssdlite320_mobilenet_v3_large",
        "torchvision:fcn_resnet50(size=64)",
        "torchvision:deeplabv3_mobilenet_v3_large(size=64)",
        "torchvision:mvit_v1_b",
        "torchvision:s3d",
        "torchvision:swin3d_t(size=64)",
        "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
        "torchvision:retinanet_resnet50_fpn",
        "torchvision:raft_large",
    ),
]


def _constant(model):
    """Parameters that are the same everywhere, and statistics of a batch norm that has seen nothing."""
    for name, parameter in model.named_parameters():
        if parameter.numel() > 1 and parameter.min() == parameter.max():
            yield name
    for name, buffer in model.named_buffers():
        start = {"running_mean": 0, "running_var": 1}.get(name.rpartition(".")[2])
        in_training_alone = name.lower().startswith("aux")
        if start is not None and (buffer == start).any() and not in_training_alone:
            yield name


@pytest.mark.parametrize("spec", CLASSIFIERS + OTHERS)
def test_no_parameter_is_constant_and_no_batch_norm_trivial(spec):
    model = find_workload(spec).model()
    assert list(_constant(model)) == []
    assert not any(module.training for module in model.modules())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    variances = [buffer for name, buffer in model.named_buffers() if name.endswith("running_var")]
    assert all((variance > 0).all() for variance in variances)


@pytest.mark.parametrize("spec", CLASSIFIERS)
def test_scores_depend_on_the_image(spec):
    workload = find_workload(spec)
    ((images,), _) = next(workload.data.batches("test", batch_size=16))
    with torch.no_grad():
        scores = workload.model()(images)
    assert scores.shape[0] == 16
    assert scores.isfinite().all()
    assert scores.std(0).mean() > 0.1, "each class's score varies from image to image"
    assert len(scores.argmax(1).unique()) >= 4, "and so does which of them wins"


@pytest.mark.parametrize("spec", ["torchvision:mobilenet_v3_small(size=64)", "timm:test_convnext"])
def test_random_weights_are_the_same_whatever_came_before(spec):
    torch.manual_seed(1)
    first = find_workload(spec).model().state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = find_workload(spec).model().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)


# ---- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", OTHERS)
def test_every_family_has_inputs_that_its_models_run_on(spec):
    workload = find_workload(spec)
    assert workload.data is None
    args, kwargs = workload.inputs()
    with torch.no_grad():
        outputs = pytree.tree_leaves(workload.model()(*args, **kwargs))
    assert all(output.numel() for output in outputs), "nothing found would be nothing compared"
    assert all(output.isfinite().all() for output in outputs)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "inception_v3", "swin_v2_t", "r3d_18", "s3d", "mvit_v1_b", "swin3d_t", "fcn_resnet50",
     "ssdlite320_mobilenet_v3_large", "raft_small"],
)  # fmt: skip
def test_inputs_have_the_form_and_range_that_the_zoo_itself_prepares(name):
    preset = import_torchvision().models.get_model_weights(name).DEFAULT.transforms()
    (first, *_), _ = find_workload(f"torchvision:{name}").inputs()
    example = first[0]  # of the batch, or of the list of images
    sides = (
        example.shape[-2:] if name in ("fcn_resnet50", "ssdlite320_mobilenet_v3_large", "raft_small") else (300, 400)
    )
    raw = torch.zeros((16, 3, *sides) if example.dim() == 4 else (3, *sides), dtype=torch.uint8)
    low, high = (preset(*[raw + level] * (2 if name == "raft_small" else 1)) for level in (0, 255))
    low, high = (bound[0] if isinstance(bound, tuple) else bound for bound in (low, high))
    assert example.dtype == low.dtype
    if name != "fcn_resnet50":  # whose preset only scales
        assert example.shape == low.shape
    assert low.min() - 0.1 <= example.min() < example.max() <= high.max() + 0.1
    assert abs(example.mean() - (low.mean() + high.mean()) / 2) < 0.2 * (high.mean() - low.mean())
    assert example.std() > 0.1 * (high.mean() - low.mean())


def test_optical_flow_gets_two_different_images():
    first, second = find_workload("torchvision:raft_small").inputs()[0]
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_detection_has_a_list_of_images_and_no_batch():
    workload = find_workload("torchvision:ssdlite320_mobilenet_v3_large(size=96)")
    assert [image.shape for image in workload.inputs()[0][0]] == [(3, 96, 96)]
    assert workload.dynamic is None


@pytest.mark.parametrize("spec", ["torchvision:vit_b_16(size=96)", "timm:vit_tiny_patch16_224(size=96)"])
def test_a_model_of_a_fixed_size_is_told_of_another(spec):
    (images,), _ = find_workload(spec).inputs()
    with torch.no_grad():
        assert find_workload(spec).model()(images).shape == (1, 1000)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:vit_b_16(size=100)", "size=100 does not fit: .*patch size"),
        ("torchvision:mvit_v2_s(size=64)", "built for 224 pixels"),
        ("torchvision:maxvit_t(size=64)", "size=64 does not fit"),
        ("timm:test_vit(size=100)", "100x100 do not fit: .*patch size"),
        ("torchvision:resnet18(size=0)", "size=…"),
        ("timm:resnet18(size=-1)", "size=…"),
        ("timm:resnet18(size='64')", "size=….*got '64'"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(spec, words):
    with pytest.raises(OptionError, match=words):
        find_workload(spec).model()


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:resnet81", "torchvision model 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:quantized_resnet18", "did you mean .*'resnet18'"),
        ("timm:resnet81", "timm model 'resnet81'; did you mean 'resnet18'"),
        ("torchvision:resnet18(weights='IMAGENET1K_V9')", "weights of torchvision:resnet18 .*mean 'IMAGENET1K_V1'"),
        ("timm:resnet18(weights='a1_in1')", "weights of timm:resnet18 'a1_in1'; did you mean 'a1_in1k'"),
        ("timm:resnet18.a1_in1", "weights of timm:resnet18 'a1_in1'; did you mean 'a1_in1k'"),
        ("torchvision:resnet18(weight='DEFAULT')", "option of torchvision 'weight'; did you mean 'weights'"),
    ],
)
def test_an_unknown_name_gives_the_nearest(spec, words):
    with pytest.raises(UnknownNameError, match=words):
        find_workload(spec)


@pytest.mark.parametrize("zoo", ["torchvision", "timm"])
def test_a_zoo_without_a_name_says_how_to_give_one(zoo):
    with pytest.raises(OptionError, match=f"{zoo} needs name: .*{zoo}:NAME"):
        find_workload(zoo)


# ---- downloaded weights --------------------------------------------------------------------------------------------


def _same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


@pytest.fixture
def checkpoints(tmp_path):
    """Weights of mobilenet_v2 where the zoo keeps what it has downloaded, by the name of the weights."""
    models = import_torchvision().models
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    states = {}
    for seed, weights in enumerate(models.MobileNet_V2_Weights):
        torch.manual_seed(seed)
        states[weights.name] = models.mobilenet_v2(weights=None).state_dict()
        torch.save(states[weights.name], folder / Path(urlparse(weights.url).path).name)
    return states


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [("IMAGENET1K_V1", "IMAGENET1K_V1"), ("IMAGENET1K_V2", "IMAGENET1K_V2"), ("DEFAULT", "IMAGENET1K_V2")],
)
def test_torchvision_loads_the_weights_that_were_asked_for(asked, loaded, checkpoints):
    model = find_workload(f"torchvision:mobilenet_v2(weights={asked!r})").model()
    assert not model.training
    assert _same(model.state_dict(), checkpoints[loaded])


def test_named_weights_bring_the_size_they_were_made_for():
    def side(spec):
        return find_workload(spec).inputs()[0][0].shape[-1]

    assert side("torchvision:efficientnet_v2_s(weights='DEFAULT')") == 384
    assert side("torchvision:efficientnet_v2_s(weights='DEFAULT', size=64)") == 64
    assert side("torchvision:vit_b_16(weights='IMAGENET1K_SWAG_E2E_V1')") == 384


def test_torchvision_without_a_network_says_where_to_put_the_file(tmp_path):
    with pytest.raises(RecipeError, match=r"'IMAGENET1K_V1' could not be loaded: .*no network") as caught:
        find_workload("torchvision:squeezenet1_1(weights='IMAGENET1K_V1')").model()
    assert f"put the file into {tmp_path / 'torch' / 'hub' / 'checkpoints'}" in str(caught.value)


def test_a_broken_checkpoint_is_an_error_of_the_file(checkpoints, tmp_path):
    for path in (tmp_path / "torch").rglob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RecipeError, match="torchvision:mobilenet_v2: the weights 'DEFAULT' could not be loaded"):
        find_workload("torchvision:mobilenet_v2(weights='DEFAULT')").model()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the download of a file: ``hub.state`` is what every file holds, ``hub.asked`` the repositories."""
    import_timm()
    hub = types.SimpleNamespace(asked=[], state=None)

    def download(repo_id, filename, **options):
        hub.asked.append(repo_id)
        if hub.state is None:
            raise ConnectionError("no network")
        from safetensors.torch import save_file

        save_file(hub.state, tmp_path / "model.safetensors")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return hub


@pytest.mark.parametrize(
    ("spec", "repository"),
    [
        ("timm:mobilenetv3_small_050(weights='DEFAULT')", "timm/mobilenetv3_small_050.lamb_in1k"),
        ("timm:mobilenetv4_conv_small(weights='DEFAULT')", "timm/mobilenetv4_conv_small.e2400_r224_in1k"),
        ("timm:mobilenetv4_conv_small(weights='e1200_r224_in1k')", "timm/mobilenetv4_conv_small.e1200_r224_in1k"),
        ("timm:mobilenetv4_conv_small.e1200_r224_in1k(weights='DEFAULT')", "timm/mobilenetv4_conv_small.e1200_r224_in1k"),
    ],
)  # fmt: skip
def test_timm_loads_the_weights_that_were_asked_for(spec, repository, hub):
    torch.manual_seed(7)
    hub.state = import_timm().create_model(repository.removeprefix("timm/"), pretrained=False).state_dict()
    model = find_workload(spec).model()
    assert set(hub.asked) == {repository}
    assert not model.training
    assert _same(model.state_dict(), hub.state)


def test_timm_without_a_network_names_the_cache(hub):
    with pytest.raises(RecipeError, match=r"weights could not be loaded: .*no network(.|\n)*HF_HOME"):
        find_workload("timm:test_vit(weights='DEFAULT')").model()
    assert hub.asked


# ---- data ----------------------------------------------------------------------------------------------------------


class Half(nn.Module):
    """Answers as ``original`` does for every second image."""

    def __init__(self, original):
        super().__init__()
        self.original, self.seen = original, 0

    def forward(self, images):
        scores = self.original(images)
        wrong = (torch.arange(len(images)) + self.seen) % 2 == 1
        self.seen += len(images)
        return torch.where(wrong[:, None], -scores, scores)


@pytest.fixture
def synthetic():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6))
    return net, SyntheticImages(lambda: net, (3, 8, 8))


def test_agreement_is_the_share_of_images_with_the_same_answer(synthetic):
    net, data = synthetic
    assert data.evaluate(net) == data.metric_of_original
    assert data.evaluate(lambda images: net(images).detach().numpy()) == 1
    assert data.evaluate(Half(net)) == 0.5


def test_synthetic_images_are_the_same_each_time_and_no_two_alike(synthetic):
    _, data = synthetic

    def images(split, seed=None):
        return torch.cat([args[0] for args, _ in data.batches(split, batch_size=24, seed=seed)])

    splits = [images(split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [256, 64, 64]
    assert len({image.numpy().tobytes() for split in splits for image in split}) == 384
    assert torch.equal(images("test"), splits[2])
    assert torch.equal(images("test", seed=3), images("test", seed=3))
    shuffled = {image.numpy().tobytes() for image in images("test", seed=3)}
    assert shuffled == {image.numpy().tobytes() for image in splits[2]}
    assert not torch.equal(images("test", seed=3), splits[2])


def test_there_is_nothing_to_learn_from_synthetic_images(synthetic):
    _, data = synthetic
    with pytest.raises(DataError, match="no labels to train on"):
        data.loss(torch.zeros(1, 6), None)
    with pytest.raises(DataError, match="no split 'tset'; there are: train, validation, test"):
        next(data.batches("tset", batch_size=1))


# ---- importing torchvision -----------------------------------------------------------------------------------------

TWICE = """
import torch
from fxopt.models.vision_import import import_torchvision
first = import_torchvision()
import_torchvision.cache_clear()
again = import_torchvision()
import torchvision
assert first is again is torchvision
boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
print(torchvision.ops.nms(boxes, torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist())
"""
AFTER_A_FAILURE = (
    """
try:
    import torchvision.models
except RuntimeError as error:
    print("failed:", error)
"""
    + TWICE
)


@pytest.mark.parametrize("code", [TWICE, AFTER_A_FAILURE], ids=["at once", "after a plain import"])
def test_torchvision_imports_beside_any_torch_and_twice(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[1, 2]"


@pytest.mark.parametrize(("name", "import_zoo"), [("torchvision", import_torchvision), ("timm", import_timm)])
def test_a_zoo_that_is_not_installed_says_what_to_install(name, import_zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"{name}, which is not installed\n  pip install 'fxopt\[zoo\]'"):
        import_zoo.__wrapped__()


def _naive_nms(boxes, scores, threshold):
    """Take the best that is left, unless a box that was taken covers too much of it; one pair at a time."""
    taken = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        ax, ay, bx, by = boxes[i]
        for j in taken:
            cx, cy, dx, dy = boxes[j]
            shared = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
            if shared > threshold * ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - shared):
                break
        else:
            taken.append(i)
    return taken


# small whole numbers, so that boxes touch, coincide and tie, and every overlap is exact
BOXES = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(st.tuples(BOXES, st.integers(0, 4)), max_size=12), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_nms_keeps_what_a_naive_one_keeps(scored, threshold):
    boxes, scores = [box for box, _ in scored], [score for _, score in scored]
    got = import_torchvision().ops.nms(torch.tensor(boxes).float().view(-1, 4), torch.tensor(scores).float(), threshold)
    assert got.dtype == torch.int64
    assert got.tolist() == _naive_nms(boxes, scores, threshold)
