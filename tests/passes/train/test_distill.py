"""Distillation: the losses of the papers, teachers and the values that are matched, and what a teacher is worth."""

import math

import numpy as np
import pytest
import torch
from cases.training import PLAIN, Blobs, Net, Plain, is_the_best_of, plain_torch, run, weights, workload
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError
from fxopt.ir.trainable_module import Watching
from fxopt.passes.train.distill import distill
from fxopt.passes.train.features import Features, Pair, find_pairs
from fxopt.passes.train.soft_labels import soft_loss
from fxopt.workload.recorded import RecordedInputs

pytestmark = pytest.mark.usefixtures("one_thread")
random = torch.Generator().manual_seed(0)


def test_soft_labels_are_those_of_the_paper():
    s, t, T = torch.randn(5, 7, generator=random), torch.randn(5, 7, generator=random), 3.0
    found = soft_loss(s, t, T, classes=True, who="a test")
    p, q = torch.softmax(t / T, 1), torch.softmax(s / T, 1)
    assert torch.allclose(found, T**2 * (p * (p / q).log()).sum(1).mean())


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (2, 3, 4, 4)])
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_another_one_has(shape):
    t = torch.randn(shape, generator=random)
    for classes in (True, False):
        assert soft_loss(t, t, 4.0, classes=classes, who="a test").abs() < 1e-6
        assert soft_loss(t.flip(1), t, 4.0, classes=classes, who="a test") > 1e-3


def test_the_loss_of_a_position_does_not_depend_on_how_many_there_are():
    s, t = torch.randn(2, 5, 1, generator=random), torch.randn(2, 5, 1, generator=random)
    one = soft_loss(s, t, 2.0, classes=True, who="a test")
    assert torch.allclose(one, soft_loss(s.expand(2, 5, 9), t.expand(2, 5, 9), 2.0, classes=True, who="a test"))


def test_outputs_that_do_not_match_are_named_with_their_shapes():
    with pytest.raises(DataError, match=r"do not match: \[2, 4\] and \[2, 3\]"):
        soft_loss(torch.zeros(2, 3), torch.zeros(2, 4), 4.0, classes=True, who="distill")


def test_attention_transfer_is_that_of_the_paper_and_blind_to_width_and_scale():
    pair = Pair("a", "b", 1, (3, 5))
    s, t = torch.randn(2, 3, 4, 4, generator=random), torch.randn(2, 5, 4, 4, generator=random)
    found = Features([pair], "attention")([s], [t])
    a, b = (v.square().sum(1).flatten(1) for v in (s, t))
    want = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).norm(dim=1).square().mean()
    assert torch.allclose(found, want, atol=1e-6)
    assert torch.allclose(found, Features([pair], "attention")([7 * s], [t]), atol=1e-6)


def test_a_hint_of_another_width_goes_through_a_map_that_is_trained():
    features = Features([Pair("a", "b", 1, (3, 5)), Pair("c", "d", 2, (4, 4))], "hint")
    assert [p.shape for p in features.parameters()] == [(5, 3), (5,)]
    s, t = torch.randn(2, 3, 4, 4, generator=random), torch.randn(2, 5, 4, 4, generator=random)
    u = torch.randn(2, 6, 4, generator=random)
    layer = features.maps[0]
    want = (F.conv2d(s, layer.weight[..., None, None], layer.bias) - t).square().mean() / t.square().mean()
    assert torch.allclose(features([s, u], [t, u]), want / 2, atol=1e-6)


class Stages(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.a = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(3)])
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.b = nn.ModuleList([nn.Conv2d(2 * width, 2 * width, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.a:
            x = x + F.relu(layer(x))
        x = self.down(x)
        for layer in self.b:
            x = x + F.relu(layer(x))
        return self.head(x.mean((2, 3)))


def test_values_of_each_resolution_are_matched_at_their_end():
    small, large = (capture(Stages(w).eval(), (torch.randn(2, 3, 8, 8),)) for w in (4, 8))
    pairs = find_pairs(small, large)
    ends = [n.name for n in small.graph.nodes if "add" in n.name]
    assert [(p.student, p.teacher) for p in pairs] == [(ends[2], ends[2]), (ends[4], ends[4])]
    assert [p.widths for p in pairs] == [(4, 8), (8, 16)]
    assert all(p.channel_dim == 1 for p in pairs)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(9)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x.mean(1)


def test_with_one_resolution_values_along_the_depth_are_matched():
    program = capture(Tokens().eval(), (torch.randn(2, 5, 6),))
    pairs = find_pairs(program, program.copy())
    assert len(pairs) == 4
    assert all(p.student == p.teacher and p.channel_dim == 2 for p in pairs)
    order = [n.name for n in program.graph.nodes if n.op == "call_function"]
    places = [order.index(p.student) for p in pairs]
    assert places == sorted(places)
    assert places[0] < len(order) / 2


@pytest.mark.parametrize("features", ["none", "hint", "attention"])
def test_the_program_as_it_was_before_teaches_what_is_left_of_it(features):
    torch.manual_seed(0)
    given = workload()
    teacher = run("finetune(epochs=20, rate=0.02, batch_size=32)", given).program
    passes = "prune_channels(ratio=0.5), distill(epochs=6, rate=0.02, batch_size=32, soft=1.0)"
    outcome = Pipeline.parse(passes).run(teacher, workload=given, watchers=())
    before, after = teacher, outcome.program
    kept = {n: t.clone() for n, t in teacher.tensors().items()}
    x = given.data.points[160:]
    pruned = Pipeline.parse("prune_channels(ratio=0.5)").run(teacher, workload=given, watchers=()).program

    def far(program):
        ours, theirs = program(x).log_softmax(1), before(x).log_softmax(1)
        return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))

    assert far(after) < 0.5 * far(pruned), "it came nearer to its teacher"
    assert all(torch.equal(kept[n], t) for n, t in teacher.tensors().items()), "the teacher is as it was"


def staged():
    """A workload of images, and a program with two stages."""
    torch.manual_seed(0)
    images = torch.randn(40, 3, 8, 8)

    class Images(Blobs):
        def __init__(self):
            super().__init__()
            self.points, self.labels = images.repeat(6, 1, 1, 1), torch.arange(240) % 4

    given = Workload(name="images", model=lambda: Stages(6).eval(), inputs=lambda: ((images[:2],), {}), data=Images())
    return given, given.capture()


def test_inner_values_that_are_matched_are_reported_and_their_maps_are_not_kept():
    given, program = staged()
    how = "epochs=4, rate=0.01, batch_size=40, soft=0.5, features='hint', feature_weight=3.0"
    passes = f"prune_channels(ratio=0.5), distill({how})"
    outcome = Pipeline.parse(passes).run(program, workload=given, watchers=())
    said = outcome.steps[-1].skips[0].reason
    assert said.startswith("hint transfer between %add")
    assert "[3 channels] ↔" in said
    assert not any("maps" in name for name in outcome.program.tensors())


def test_a_seed_decides_over_the_maps_of_hints_and_the_callers_random_state_is_kept():
    given, program = staged()
    passes = Pipeline.parse("prune_channels(ratio=0.5), distill(epochs=1, batch_size=40, features='hint')")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(weights(passes.run(program, workload=given, watchers=())))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_attention_of_the_teacher_is_taken_over():
    given, program = staged()
    how = "epochs=6, rate=0.01, batch_size=40, features='attention', feature_weight="
    pruned, alone, taught = (
        Pipeline.parse(f"prune_channels(ratio=0.5){more}").run(program, workload=given, watchers=()).program
        for more in ("", f", distill({how}0.0)", f", distill({how}300.0)")
    )

    def maps(p, name):
        watching = Watching(p.module, (name,))
        watching.run(given.data.points[:40], enable_io_processing=False)
        energy = watching.seen[name].detach().square().sum(1).flatten(1).numpy()
        return energy / np.linalg.norm(energy, axis=1, keepdims=True)

    def far(p):
        return sum(float(((maps(p, x.student) - maps(program, x.teacher)) ** 2).sum()) for x in pairs)

    pairs = find_pairs(pruned, program)
    assert len(pairs) == 2
    assert far(taught) < 0.8 * min(far(pruned), far(alone))


def test_recorded_inputs_and_nothing_else_are_enough():
    given = workload()
    teacher = run("finetune(epochs=20, rate=0.02, batch_size=32)", given).program
    recorded = RecordedInputs({"": given.data.points.numpy()}, teacher)
    bare = Workload(name="bare", model=Net, inputs=given.inputs, data=recorded)
    pruned, taught = (
        Pipeline.parse(f"prune_channels(ratio=0.5){more}").run(teacher, workload=bare, watchers=()).program
        for more in ("", ", distill(epochs=20, rate=0.02, batch_size=32, soft=1.0)")
    )
    assert recorded.evaluate(taught, "test") > recorded.evaluate(pruned, "test") + 0.05
    with pytest.raises(DataError, match="recorded inputs have no targets to train on"):
        Pipeline.parse("distill(epochs=1)").run(teacher, workload=bare, watchers=())


def test_batches_without_labels_are_enough():
    given = workload()
    teacher = run("finetune(epochs=20, rate=0.02, batch_size=32)", given).program
    unlabelled = Blobs()
    batches = unlabelled.batches
    unlabelled.batches = lambda split, **k: ((args, None) for args, _ in batches(split, **k))
    unlabelled.loss = None
    other = Workload(name="bare", model=lambda: Net().eval(), inputs=given.inputs, data=unlabelled)
    unlabelled.evaluate = lambda model, split="test": given.data.evaluate(model, split)
    passes = "prune_channels(ratio=0.5), distill(epochs=6, rate=0.02, batch_size=32, soft=1.0)"
    outcome = Pipeline.parse(passes).run(teacher, workload=other, watchers=())
    pruned = Pipeline.parse("prune_channels(ratio=0.5)").run(teacher, workload=given, watchers=()).program
    assert given.data.evaluate(outcome.program) > given.data.evaluate(pruned)
    with pytest.raises(DataError, match="needs a training loss"):
        Pipeline.parse("distill(epochs=1)").run(teacher, workload=other, watchers=())


def test_a_teacher_of_another_task_is_refused():
    with pytest.raises(DataError, match="does not take the student's inputs"):
        run("distill(teachers=('digits',), epochs=1)")


class Taught(Plain):
    def __init__(self, seed, classes=4):
        super().__init__()
        torch.manual_seed(seed)
        self.b = nn.Linear(16, classes)


def one() -> Workload:
    return workload(lambda: Taught(1))


def two() -> Workload:
    return workload(lambda: Taught(2))


def wider() -> Workload:
    return workload(lambda: Taught(3, classes=5))


def test_several_teachers_teach_as_in_a_loop_in_plain_torch():
    teachers = [Taught(1), Taught(2)]

    def loss(output, args, target):
        taught = [
            9 * F.kl_div((output / 3).log_softmax(1), (t(*args) / 3).softmax(1).detach(), reduction="batchmean")
            for t in teachers
        ]
        return 0.5 * F.cross_entropy(output, target) + 0.5 * (taught[0] + taught[1]) / 2

    how = "teachers=('test_distill:one', 'test_distill:two'), temperature=3.0, soft=0.5"
    trained = weights(run(f"distill({PLAIN}, {how})", workload(Plain)))
    assert is_the_best_of(trained, plain_torch(loss))
    alone = weights(run(f"distill({PLAIN}, {how.replace(', ' + repr('test_distill:two'), ',')})", workload(Plain)))
    assert not is_the_best_of(alone, plain_torch(loss)), "the second one counts"


def test_a_teacher_of_other_outputs_is_refused_with_both_shapes():
    with pytest.raises(DataError, match=r"teacher and student do not match: \[64, 5\] and \[64, 4\]"):
        run("distill(teachers=('test_distill:wider',), epochs=1)", workload(Plain))


def test_equal_to_finetune_where_the_teacher_counts_for_little():
    labels = weights(run("finetune(epochs=2, rate=0.02, batch_size=32)", workload(Plain)))
    taught = weights(run("distill(epochs=2, rate=0.02, batch_size=32, soft=1e-9)", workload(Plain)))
    assert all(torch.allclose(labels[n], taught[n], atol=1e-4) for n in labels)


def test_the_text_form_holds_all_options():
    text = "distill(epochs=2, teachers=('digits', 'glyphs'), temperature=2.0, soft=0.5, features='hint')"
    (step,) = Pipeline.parse(text).passes
    assert isinstance(step, distill)
    assert math.isclose(step.temperature, 2.0)
    assert str(step) == text
