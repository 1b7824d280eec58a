"""Steps from the cache are those that would be run, bit for bit; whatever they depend on, another value of it is a miss."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from cases.same_outcome import facts
from cases.training import workload as blobs
from hypothesis import given, settings
from hypothesis import strategies as st

from fxopt import Context, Pipeline, graph_pass, registry
from fxopt.backends.eager import Eager
from fxopt.errors import FxoptError
from fxopt.pass_manager.instruments import MetricWatcher, print_after
from fxopt.pass_manager.step_cache import StepCache
from fxopt.pass_manager.verify import Verify
from fxopt.support.import_user_code import import_file
from fxopt.support.observed import is_volatile
from fxopt.support.store import Store
from fxopt.target import find_target
from fxopt.testing import small_workload

INF = float("inf")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


def _run(passes, program, store, *, watchers=(), long=0.0, workload=None, target=None, backend=None):
    pipeline = passes if isinstance(passes, Pipeline) else Pipeline.parse(passes)
    cache = StepCache(store, long) if store else None
    return pipeline.run(
        program, watchers=watchers, workload=workload or small_workload(program), target=target or find_target("host"),
        backend=backend or Eager(), cache=cache,
    )  # fmt: skip


def _cached(outcome):
    return [step.cached for step in outcome.steps]


# ---- what comes out is the same ------------------------------------------------------------------------------------

_MEASURES = {"choose_half"}
"""Passes that may time something by default."""


_EACH_KIND = {"drop_noop", "fold_batch_norm", "fold_constants", "shrink", "sparsify", "zero_layers", "truncate_rank",
              "cast_floats", "reconstruct", "quantize_weights", "smooth_activations"}  # fmt: skip
"""One pass of each theme and shape of its result; the rest run with the slow tests."""


@pytest.mark.parametrize(
    "name",
    [name if name in _EACH_KIND else pytest.param(name, marks=pytest.mark.slow) for name in registry.names("pass")],
)
def test_every_pass_gives_the_same_from_the_cache(name, programs, store):
    program = programs["transformer" if "attention" in name or "heads" in name or "qkv" in name else "residual"]
    pipeline = Pipeline.of(registry.get("pass", name)())
    try:
        plain = _run(pipeline, program, None)
    except FxoptError as error:
        for _ in range(2):
            with pytest.raises(type(error)):
                _run(pipeline, program, store)
        return
    long = INF if len(name) % 2 else 0.0  # made again, or stored
    cold, warm = (_run(pipeline, program, store, long=long) for _ in range(2))
    assert facts(cold) == facts(plain)
    assert facts(warm) == facts(plain)
    assert not any(_cached(cold)[:1])
    assert all(_cached(warm)) or name in _MEASURES


_CHEAP = ("drop_noop", "fold_batch_norm", "merge_duplicates", "zero_channels(ratio=0.3)", "shrink", "sparsify(ratio=0.5)",
          "canonicalize_clamp", "mean_to_pool")  # fmt: skip


@pytest.mark.slow
@settings(max_examples=10)
@given(first=st.lists(st.sampled_from(_CHEAP), max_size=3), second=st.lists(st.sampled_from(_CHEAP), max_size=2),
       long=st.sampled_from([0.0, INF]))  # fmt: skip
def test_pipelines_that_share_steps_give_what_they_give_alone(programs, tmp_path_factory, first, second, long):
    store, program = Store(tmp_path_factory.mktemp("store"), 10**9), programs["residual"]
    for passes in (first, [*first, *second], second):
        found = _run(", ".join(passes), program, store, long=long, watchers=(Verify(),))
        assert facts(found) == facts(_run(", ".join(passes), program, None, watchers=(Verify(),)))


def test_verified_and_judged_steps_keep_their_findings(programs, store):
    program, passes = programs["residual"], "zero_channels(ratio=0.5), shrink, quantize"
    data = small_workload(program).data
    runs = [_run(passes, program, store, watchers=(MetricWatcher(data), Verify())) for _ in range(2)]
    assert all(_cached(runs[1]))
    assert facts(runs[0]) == facts(runs[1])
    assert None not in (runs[1].steps[0].findings.metric, runs[1].steps[0].findings.sqnr_db)
    assert runs[1].steps[1].findings.error < 1e-9
    assert [step.seconds for step in runs[0].steps] == [step.seconds for step in runs[1].steps]


def test_only_what_follows_a_change_is_run(programs, store):
    program = programs["residual"]
    _run("zero_channels(ratio=0.5), shrink, fold_batch_norm, quantize", program, store)
    other = "zero_channels(ratio=0.5), shrink, fold_batch_norm, quantize(per_channel=False)"
    found, alone = _run(other, program, store), _run(other, program, None)
    assert facts(found) == facts(alone)
    count = _cached(found).index(False)
    assert [step.text for step in found.steps[:count]][:3] == ["zero_channels(ratio=0.5)", "shrink", "fold_batch_norm"]
    assert found.steps[count].text.startswith("insert_qdq") or count == len(found.steps) - 1


def test_two_ways_to_equal_programs_go_on_as_one(programs, store):
    program = programs["residual"]
    _run("zero_channels(ratio=0.5), shrink", program, store)
    found = _run("zero_channels(ratio=0.500001), shrink", program, store)
    assert _cached(found) == [False, True]
    assert found.program.history == ("zero_channels(ratio=0.500001)", "shrink")


def test_rungs_of_training_go_on_from_one_another(store):
    given, whole = blobs(), Pipeline.parse("distill(epochs=9, rate=0.02)").passes[0]
    program = given.capture()
    for ends in ((1,), (1, 3), (1, 3, 9)):
        pipeline = Pipeline.of(*whole.in_rungs(*ends))
        found = _run(pipeline, program, store, workload=blobs())
        assert _cached(found) == [True] * (len(ends) - 1) + [False]
        assert facts(found) == facts(_run(pipeline, program, None, workload=blobs()))
    assert sum(part.epochs for part in whole.in_rungs(1, 3, 9)) == 9
    assert len({part.seed for part in whole.in_rungs(1, 3, 9)}) == 3
    assert dataclasses.replace(whole, sparsity=0.5).in_rungs(1, 3) == (dataclasses.replace(whole, sparsity=0.5),)
    assert Pipeline.parse("shrink").passes[0].in_rungs(1, 3) == Pipeline.parse("shrink").passes


@pytest.mark.parametrize("name", ["finetune", "distill", "train_quantized"])
def test_rungs_of_any_training_run_one_after_another(name):
    """One that quantizes, cut like its base class, was refused on the second rung of every search."""
    given = blobs()
    pipeline = Pipeline.of(*Pipeline.parse(f"{name}(epochs=3)").passes[0].in_rungs(1, 3))
    found = _run(pipeline, given.capture(), None, workload=given)
    assert sum(step.text.startswith(name) for step in found.steps) == len(pipeline.passes)


@pytest.mark.parametrize("ends", [(3, 1), (0, 2), (2, 2)])
def test_rungs_must_ascend(ends):
    with pytest.raises(FxoptError, match="ascending"):
        Pipeline.parse("finetune").passes[0].in_rungs(*ends)


# ---- what is another thing is a miss -------------------------------------------------------------------------------


def _misses(first, second):
    """Whether the second run finds nothing that the first one left; both functions run a pipeline of one step."""
    first()
    assert _cached(first()) == [True], "the same is found"
    return _cached(second()) == [False]


def test_another_target_is_a_miss_where_it_was_asked_for(programs, store):
    program, rpi = programs["residual"], find_target("raspberry_pi_4")
    for passes, asked in (("zero_channels(ratio=0.5)", False), ("zero_channels(ratio=0.5, multiple='target')", True)):
        here = dataclasses.replace(find_target("host"), channel_multiple=8)
        missed = _misses(lambda p=passes, t=here: _run(p, program, store, target=t),
                         lambda p=passes: _run(p, program, store, target=rpi))  # fmt: skip
        assert missed == asked


@dataclasses.dataclass(frozen=True)
class Other(Eager):
    """A backend with an option."""

    name = "eager"
    level: int = 0


def test_another_backend_is_a_miss_where_it_was_asked_for(programs, store):
    program = programs["residual"]
    for passes, asked in (("fold_batch_norm", False), ("insert_qdq", True)):
        missed = _misses(lambda p=passes: _run(p, program, store, backend=Other()),
                         lambda p=passes: _run(p, program, store, backend=Other(level=1)))  # fmt: skip
        assert missed == asked


@pytest.mark.parametrize("at", [0, 200])
def test_other_data_are_a_miss_where_they_are_read(at, store):
    """The first 160 points are the training split, the others validation."""
    given = blobs()
    program = given.capture()

    def changed():
        other = blobs()
        other.data.points[at, 0] += 1e-3
        return other

    assert _misses(lambda: _run("finetune(epochs=1)", program, store, workload=blobs()),
                   lambda: _run("finetune(epochs=1)", program, store, workload=changed()))  # fmt: skip
    quantizes = "insert_qdq(images=32)"
    missed = _misses(lambda: _run(quantizes, program, store, workload=blobs()),
                     lambda: _run(quantizes, program, store, workload=changed()))  # fmt: skip
    assert missed, "the data hold all their points, which are part of what they are"


def test_another_watcher_is_a_miss(programs, store):
    program, data = programs["residual"], small_workload(programs["residual"]).data
    other = small_workload(programs["residual"]).data
    other.metric = "another"
    ways = [(), (Verify(),), (MetricWatcher(data),), (MetricWatcher(other),), (MetricWatcher(data), Verify())]
    for watchers in ways:
        assert _cached(_run("zero_channels(ratio=0.5)", program, store, watchers=watchers)) == [False]
    for watchers in ways:
        assert _cached(_run("zero_channels(ratio=0.5)", program, store, watchers=watchers)) == [True]


def test_a_watcher_that_wants_to_see_every_step_sees_it(programs, store):
    from rich.console import Console

    _run("fold_batch_norm", programs["residual"], store)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    watchers = (print_after(["all"], console),)
    for _ in range(2):
        assert _cached(_run("fold_batch_norm", programs["residual"], store, watchers=watchers)) == [False]
    assert console.export_text().count("-- after 'fold_batch_norm'") == 2


@pytest.mark.parametrize("change", ["weight", "example", "option", "threads", "seed"])
def test_another_program_option_or_machine_is_a_miss(change, programs, store):
    program = programs["residual"].copy()
    other, passes, undo = program.copy(), "zero_channels(ratio=0.5, by='random')", lambda: None
    if change == "weight":
        name, tensor = next(iter(other.tensors().items()))
        other.set_tensor(name, tensor.detach().nextafter(torch.tensor(9.0)))
    elif change == "example":
        other.args = tuple(v + 1 for v in other.args)
    elif change == "option":
        passes = "zero_channels(ratio=0.500001, by='random')"
    elif change == "seed":
        passes = "zero_channels(ratio=0.5, by='random', seed=1)"
    _run("zero_channels(ratio=0.5, by='random')", program, store)
    if change == "threads":
        count = torch.get_num_threads()
        torch.set_num_threads(count + 1)
        undo = lambda: torch.set_num_threads(count)  # noqa: E731
    try:
        assert _cached(_run(passes, other, store)) == [False]
    finally:
        undo()


_SOURCE = '''
from fxopt import graph_pass
{imports}

@graph_pass(kind="approx")
def halve(program, *, by: float = 2.0):
    """Divide weights."""
    for name, tensor in program.tensors().items():
        if tensor.is_floating_point():
            program.set_tensor(name, tensor / {divisor})
'''


def _old(path, text):
    """A source that is older than this process, as those of a program that is started anew are."""
    path.write_text(text)
    _old.age += 1
    os.utime(path, (_old.age, _old.age))
    return import_file(path)


_old.age = 1


def test_edited_code_is_a_miss_and_so_is_what_it_imports(programs, store, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    path, helper = tmp_path / "my_halve.py", tmp_path / "my_helper.py"
    run = lambda made: _run(Pipeline.of(made.halve()), programs["residual"], store)  # noqa: E731
    helper.write_text("TWO = 2\n")
    os.utime(helper, (1, 1))
    texts = [_SOURCE.format(imports="", divisor="by"), _SOURCE.format(imports="", divisor="by * 1.0"),
             _SOURCE.format(imports="from my_helper import TWO", divisor="TWO")]  # fmt: skip
    for text in texts:
        made = _old(path, text)
        assert _cached(run(made)) == [False]
        assert _cached(run(made)) == [True]
    helper.write_text("TWO = 2.0\n")
    os.utime(helper, (2, 2))
    assert _cached(run(made)) == [False]


def test_code_that_was_edited_since_the_process_began_is_not_cached(programs, store, tmp_path):
    path = tmp_path / "fresh_halve.py"
    path.write_text(_SOURCE.format(imports="", divisor="by"))
    os.utime(path, ns=(2**62, 2**62))
    pipeline = Pipeline.of(import_file(path).halve())
    assert [_cached(_run(pipeline, programs["residual"], store)) for _ in range(2)] == [[False], [False]]


def test_what_a_pass_closed_over_is_part_of_it(programs, store):
    def made(factor):
        @graph_pass(kind="approx")
        def scale(program):
            """Scale weights."""
            for name, tensor in program.tensors().items():
                if tensor.is_floating_point():
                    program.set_tensor(name, tensor * factor)

        return scale()

    runs = [_cached(_run(Pipeline.of(made(factor)), programs["residual"], store)) for factor in (2.0, 3.0, 2.0)]
    assert runs == [[False], [False], [True]]


@graph_pass(kind="approx")
def noisy(program):
    """Add noise of the global generator."""
    for name, tensor in program.tensors().items():
        if tensor.is_floating_point():
            program.set_tensor(name, tensor + torch.rand_like(tensor))


@graph_pass(kind="approx")
def measured(program):
    """Depend on a measurement."""
    is_volatile("it times programs")
    noisy().run(program)


@graph_pass
def asks_the_model(program, context: Context):
    """Read the workload's model."""
    if context.workload is not None:
        context.workload.model()


@pytest.mark.parametrize("pass_", [noisy(), measured(), asks_the_model()], ids=str)
def test_what_need_not_be_the_same_next_time_is_not_kept(pass_, programs, store):
    for _ in range(2):
        assert _cached(_run(Pipeline.of(pass_), programs["residual"], store)) == [False]


def test_an_edited_mask_file_is_a_miss(programs, store, tmp_path):
    import numpy as np

    program = programs["residual"]
    name = next(n for n, t in program.tensors().items() if t.dim() == 4)
    shape, passes = program.tensors()[name].shape, f"apply_mask(path={str(tmp_path / 'mask.npz')!r})"

    def run(fill):
        mask = np.ones(shape, dtype=bool)
        mask[0] = fill
        np.savez(tmp_path / "mask.npz", **{name: mask})
        return _cached(_run(passes, program, store))

    assert [run(False), run(False), run(True), run(False)] == [[False], [True], [False], [True]]


# ---- what is stored cannot do harm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["programs", "steps", "reads"])
def test_a_damaged_entry_is_made_again(kind, programs, store):
    passes, program = "zero_channels(ratio=0.5), shrink", programs["residual"]
    plain = _run(passes, program, store)
    paths = [path for path in (store.root / kind).rglob("*") if len(path.name) > 60]
    assert paths
    for path in paths:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert facts(_run(passes, program, store)) == facts(plain)
    assert all(_cached(_run(passes, program, store)))


def test_a_program_that_comes_out_otherwise_is_not_believed(programs, store):
    """As if a pass gave another result than it did: what is stored of the step is dropped, and it is run."""
    passes, program = "zero_channels(ratio=0.5), shrink", programs["residual"]
    plain = _run(passes, program, store, long=INF)
    for path in (store.root / "steps").rglob("*"):
        if len(path.name) > 60:
            entry = store.get("steps", path.name)
            store.put("steps", path.name, entry.values | {"after": "0" * 64})
    found = _run(passes, program, store, long=INF)
    assert facts(found) == facts(plain)
    assert not any(_cached(found))
    assert all(_cached(_run(passes, program, store, long=INF)))


def test_without_a_place_to_write_a_pipeline_runs_as_ever(programs, tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache", 10**9)
    with pytest.warns(UserWarning, match="going on without a cache") as caught:
        found = _run("zero_channels(ratio=0.5), shrink", programs["residual"], store)
    assert len(caught) == 1
    assert facts(found) == facts(_run("zero_channels(ratio=0.5), shrink", programs["residual"], None))


def test_a_refusal_is_the_same_refusal_and_is_not_kept(programs, store):
    for _ in range(2):
        with pytest.raises(FxoptError, match="no mask file"):
            _run("fold_batch_norm, apply_mask(path='absent.npz')", programs["residual"], store)


@pytest.mark.slow
def test_processes_with_one_cache_killed_at_any_moment_agree(tmp_path):
    code = f"""
from pathlib import Path
from fxopt import Pipeline
from fxopt.pass_manager.step_cache import StepCache
from fxopt.support.store import Store
from fxopt.testing import small_models, small_workload
program = next(model for model in small_models() if model.name == "residual").program()
cache = StepCache(Store(Path({str(tmp_path)!r}), 10**9), 0.0)
for i in range(5):
    passes = Pipeline.parse(f"zero_channels(ratio=0.{{i + 2}}), shrink, fold_batch_norm, quantize")
    print(passes.run(program, workload=small_workload(program), cache=cache).program.fingerprint(), flush=True)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = lambda: subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)  # noqa: E731
    for lines in (0, 1, 2):
        workers = [start(), start()]
        for _ in range(lines):
            workers[0].stdout.readline()
        for worker in workers:
            worker.kill()
            worker.communicate()
    outputs = [worker.communicate(timeout=300)[0] for worker in (start(), start())]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split()) == 5
