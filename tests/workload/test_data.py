"""Datasets of others as data: what DataLoader gives, in the order of its seed, from three kinds of datasets."""

import pytest
import torch
from cases.training import CLASSES, Blobs, Net, run, weights
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import fxopt
from fxopt import Workload
from fxopt.errors import DataError, UnknownNameError, UsageError
from fxopt.workload import Counted

pytestmark = pytest.mark.usefixtures("one_thread")
BLOBS = Blobs()
POINTS, LABELS = BLOBS.points, BLOBS.labels
TENSORS = TensorDataset(POINTS[:160], LABELS[:160]), TensorDataset(POINTS[160:], LABELS[160:])


class Dicts(Dataset):
    """As of Hugging Face: examples by number, each a dict of plain values."""

    def __len__(self):
        return 160

    def __getitem__(self, i):
        return {"id": str(i), "points": POINTS[i].numpy(), "label": int(LABELS[i])}


class Shards:
    """As of WebDataset: an iterable of tuples that is read anew for each epoch."""

    epochs = ()

    def set_epoch(self, seed):
        self.epochs = (*self.epochs, seed)

    def __iter__(self):
        yield from zip(POINTS[:160], LABELS[:160], strict=True)


class Stream(Shards, IterableDataset):
    pass


def taken(data, **options):
    parts = list(data.batches("train", **{"batch_size": 64, **options}))
    return (
        [tuple(len(a) for a in args) for args, _ in parts],
        torch.cat([a[0] for a, _ in parts]),
        torch.cat([t for _, t in parts]),
    )


@pytest.mark.parametrize(
    ("train", "options"),
    [(TENSORS[0], {}), (Dicts(), {"inputs": ("points",)}), (Shards(), {}), (Stream(), {}), (list(TENSORS[0]), {})],
)
def test_a_dataset_gives_its_examples_in_batches(train, options):
    sizes, points, labels = taken(fxopt.data.from_torch(train, TENSORS[1], **options))
    assert sizes == [(64,), (64,), (32,)]
    assert torch.equal(points, POINTS[:160])
    assert torch.equal(labels, LABELS[:160])


def test_the_order_of_an_epoch_is_that_of_its_seed_and_no_random_number_is_drawn():
    data = fxopt.data.from_torch(*TENSORS)
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    orders = [taken(data, seed=seed)[1] for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(1), drawn)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    loader = DataLoader(TENSORS[0], 64, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert torch.equal(orders[0], torch.cat([points for points, _ in loader]))


def test_an_iterable_is_told_the_seed_and_is_not_counted():
    shards = Shards()
    data = fxopt.data.from_torch(shards, TENSORS[1])
    taken(data, seed=7)
    assert shards.epochs == (7,)
    assert data.example_count("train") is None
    assert data.example_count("validation") == 80


def test_workers_read_the_same():
    data = fxopt.data.from_torch(*TENSORS, workers=1)
    assert torch.equal(taken(data, seed=3)[1], taken(fxopt.data.from_torch(*TENSORS), seed=3)[1])


def test_the_metric_is_the_mean_over_all_examples():
    data = fxopt.data.from_torch(*TENSORS)
    net = Net().eval()
    assert data.evaluate(lambda x: net(x).detach().numpy(), "validation") == pytest.approx(
        BLOBS.evaluate(net, "validation")
    )
    assert data.evaluate(net, "test") == data.evaluate(net, "validation")
    own = fxopt.data.from_torch(*TENSORS, metric="closeness", score=lambda output, target: -output.square().mean(1))
    assert own.metric == "closeness"
    assert own.evaluate(net, "validation") == pytest.approx(-float(net(POINTS[160:]).detach().square().mean()))


def test_training_on_it_is_training_on_the_tensors():
    inputs = lambda: ((torch.zeros(2, 6),), {})  # noqa: E731
    make = lambda data: Workload(name="blobs", model=lambda: Net().eval(), inputs=inputs, data=data)  # noqa: E731

    class Same(Blobs):  # the order of Blobs is drawn in another way
        def batches(self, split, *, batch_size, seed=None):
            yield from fxopt.data.from_torch(*TENSORS).batches(split, batch_size=batch_size, seed=seed)

    data = fxopt.data.from_torch(*TENSORS)
    assert isinstance(data, Counted)
    passes = "finetune(epochs=2, rate=0.02, batch_size=48)"
    ours, theirs = weights(run(passes, make(data))), weights(run(passes, make(Same())))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_no_example_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match="train has neither"):
        fxopt.data.from_torch(5, TENSORS[1])
    with pytest.raises(DataError, match="dicts of id, points, label"):
        taken(fxopt.data.from_torch(Dicts(), TENSORS[1]))
    with pytest.raises(UnknownNameError, match="points"):
        taken(fxopt.data.from_torch(Dicts(), TENSORS[1], inputs=("point",)))
    with pytest.raises(DataError, match="with the target last"):
        taken(fxopt.data.from_torch(list(POINTS), TENSORS[1]))
    with pytest.raises(DataError, match="no example"):
        fxopt.data.from_torch(*TENSORS, test=[]).evaluate(Net(), "test")
    assert CLASSES == 4
