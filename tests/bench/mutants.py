# ruff: noqa: E501  # a line of code and what is put in its place stand side by side
"""Are bugs caught by CI? Each mutant is one wrong line of the core, and must fail one of its tests, slow ones included.

Run: ``python tests/bench/mutants.py``, or with words that a mutant's file or line must hold. A mutant is applied to a copy
of the tree, whose tests run in a process of their own until the first fails. The exit code is the number of survivors.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("fxopt", "passes", "backends", "models", "tests", "pyproject.toml")

VERIFY, VALUES = "tests/pass_manager/test_verify.py", "tests/pass_manager/test_value_map.py"
ATOMS, RULES = "tests/passes/prune/test_coupling_atoms.py", "tests/passes/prune/test_coupling_rules.py"
OBSERVERS, FORMATS = "tests/passes/quant/test_observers.py", "tests/passes/quant/test_quant_formats.py"
QUANTIZE, CLEAN = "tests/passes/quant/test_quantize.py", "tests/passes/clean/test_clean_passes.py"
FOLD, CAPTURE = "tests/passes/fuse/test_fold_batch_norm.py", "tests/frontend/test_capture.py"
MEMORY, WIDENED = "tests/ir/test_memory_planning.py", "tests/ir/test_widened.py"
PIPELINE, BRANCHES = "tests/pass_manager/test_pipeline.py", "tests/passes/prune/test_zero_branches.py"
WRONG, REGIONS = "tests/pass_manager/test_wrong_passes.py", "tests/pass_manager/test_regions.py"
SHRINK, ONNX = "tests/passes/prune/test_shrink_models.py", "tests/backends/test_onnx.py"


@dataclass(frozen=True)
class Mutant:
    """One place of a file, what stands there, what is put there, and the tests of which one must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(file: str, *tests: str) -> object:
    return lambda old, new: Mutant(file, old, new, tests)


_verify, _map = _of("fxopt/pass_manager/verify.py", VERIFY, VALUES), _of("fxopt/pass_manager/value_map.py", VALUES)
_whole, _interface = (
    _of("fxopt/pass_manager/end_to_end.py", VERIFY, WRONG),
    _of("fxopt/pass_manager/interface_check.py", VERIFY),
)
_proof, _stored = (
    _of("fxopt/pass_manager/exact_proof.py", VERIFY, VALUES),
    _of("fxopt/pass_manager/stored_check.py", WRONG),
)
_check, _rounds = (
    _of("fxopt/pass_manager/regions/check.py", WRONG, REGIONS),
    _of("fxopt/pass_manager/regions/error.py", WRONG, REGIONS),
)
_window, _linear = (
    _of("fxopt/pass_manager/regions/window.py", REGIONS, WRONG),
    _of("fxopt/pass_manager/regions/affine.py", REGIONS, WRONG),
)
_kept, _step = (
    _of("fxopt/pass_manager/invariants.py", VERIFY, PIPELINE),
    _of("fxopt/pass_manager/step.py", VERIFY, PIPELINE),
)
_error, _probe = _of("fxopt/numerics/error_metrics.py", VERIFY), _of("fxopt/numerics/probe_inputs.py", VERIFY)
_held, _alias = _of("fxopt/ir/held_weight.py", WIDENED, VERIFY), _of("fxopt/ir/alias_analysis.py", CLEAN, BRANCHES)
_dead = _of("fxopt/ir/dead_code.py", CLEAN, PIPELINE)
_memory, _shape = (
    _of("fxopt/ir/memory_planning.py", MEMORY),
    _of("fxopt/ir/shape_inference.py", "tests/ir/test_shape_memo.py"),
)
_atoms, _axes = _of("passes/prune/coupling/atoms.py", ATOMS), _of("passes/prune/coupling/axes.py", ATOMS, RULES)
_live, _conv = (
    _of("passes/prune/coupling/liveness.py", ATOMS, SHRINK),
    _of("passes/prune/coupling/rules_conv.py", ATOMS, RULES),
)
_join, _norm = (
    _of("passes/prune/coupling/rules_join.py", RULES, ATOMS),
    _of("passes/prune/coupling/rules_norm.py", RULES, ATOMS),
)
_affine, _weights = (
    _of("passes/quant/observers/affine.py", OBSERVERS, QUANTIZE),
    _of("passes/quant/weights.py", QUANTIZE, FORMATS),
)
_encode, _pairs = (
    _of("passes/quant/encode.py", QUANTIZE, FORMATS),
    _of("fxopt/target/int8_pairs.py", QUANTIZE, "tests/driver/test_int8_check.py"),
)
_fold, _noop = _of("passes/fuse/fold_batch_norm.py", FOLD), _of("passes/clean/drop_noop.py", CLEAN)
_capture, _sizes = _of("fxopt/frontend/capture.py", CAPTURE), _of("fxopt/frontend/dynamic_shapes.py", CAPTURE)
_onnx = _of("backends/onnx/weights.py", ONNX, "tests/driver/test_int8_check.py")
DEVICE = "tests/device/test_on_pretend.py"


def _moves(file: str, old: str, new: str) -> Mutant:
    return Mutant(file, old, new, (DEVICE,))


MUTANTS: tuple[Mutant, ...] = (
    # pass manager
    _whole("if not error <= allowed[i]:", "if error > 10 * allowed[i]:"),
    _interface("new = sorted({a for b, c in zip(before, after, strict=True) for a in c.aliases - b.aliases})", "new = []"),
    _verify("elif want.shape == got.shape:", "elif want.dim() == got.dim():"),
    _verify("finite = not bool((want.isfinite() & ~got.isfinite()).any())", "finite = True"),
    _interface('if before[2:] != after[2:]:', "if before[2:3] != after[2:3]:"),
    _proof("if not replay.claims:\n        return", "if replay.claims is not None:\n        return"),
    _stored("relative_error(want, got) <= WEIGHT_ROUNDING", "relative_error(want, got) <= 100 * WEIGHT_ROUNDING"),
    _check("if all(has(node, Trait.UNROUNDED) for node in calls):", "if not calls:"),
    _check("form = form_of(region, *self._programs)", "form = form_of(region, *self._programs)[-2:]"),
    _rounds("stable = room <= _UNSTABLE", "stable = room <= 0 * room"),
    _rounds("return bool((want == got)[stable].all())", "return True"),
    _window("enough = max(least, 2 * (seen + border) + stride)", "enough = 2"),
    _window("(size - enough) % stride", "0"),
    _window("if any(size != 1 for size in self._shape(node)[-dims:]):", "if False:"),
    _linear('return varying == [call["input"]] and not call["training"]', "return True"),
    _linear("return len(factors) == 1 == len(varying)", "return len(factors) > 0"),
    _map("if not error <= (_ROUNDING * noise[was] if noise[was] <= _CHAOS else 0.0):", "if not error <= _ROUNDING * noise[was]:"),
    _map("_ROUNDING = 30", "_ROUNDING = 0"),
    _kept('kept = ("args", "kwargs", "ranges", "notes", "history")', 'kept = ("kwargs", "notes", "history")'),
    _kept("bool(((a == b) | ((a != a) & (b != b))).all())", "bool((a == b).all())"),
    _step("program.history = (*program.history, result.text)", "program.history = (result.text,)"),
    _step("if (result.changed and _reshaped(step.before, program)) or lost_types(step.before, program):", "if lost_types(step.before, program):"),
    # numbers
    _error("errors = (want - got).abs_().div_(want.abs().clamp_(min=scale))", "errors = (want - got).abs_().div_(want.abs().clamp_(min=1.0))"),
    _error("return math.inf if math.isnan(worst) else worst", "return 0.0 if math.isnan(worst) else worst"),
    _error("return int(torch.count_nonzero(want != got)) / want.numel()", "return float((want != got).all())"),
    _probe("SCALES = (10.0, 1.0, 0.1)", "SCALES = (1.0,)"),
    _probe("near = (3, 2, 4) if", "near = (size,) if"),
    _held("torch.float32: torch.float64, torch.float16", "torch.float32: torch.float32, torch.float16"),
    # graphs
    _alias("return not its.isdisjoint(outputs) or any", "return any"),
    _alias("if other in mine or mine.isdisjoint(outputs):", "if True:"),
    _alias("return {sets[target] for node in graph.nodes for target in written(node)}", "return set()"),
    _dead("todo += [*node.all_input_nodes, *self._writers.get(self._sets[node], ())]", "todo += node.all_input_nodes"),
    _memory("alive = [value for value in alive if last[value] >= i] + born[i]", "alive = [value for value in alive if last[value] > i] + born[i]"),
    _memory("size = 0 if _dequantizes(node) else _bytes(node, shape(node))", "size = _bytes(node, shape(node))"),
    _shape("if not args[0].is_floating_point() or not args[0].is_contiguous():", "if not args[0].is_floating_point():"),
    # passes
    _noop('if name in ("aten.mul.Tensor", "aten.div.Tensor") and arguments(node)["other"] == 1:', 'if name in ("aten.mul.Tensor", "aten.div.Tensor"):'),
    _noop("return source if _same_type(node, source) and _same_strides(node, source) else None", "return source"),
    _fold('scale = torch.rsqrt(var.double() + norm["eps"])', "scale = torch.rsqrt(var.double())"),
    _fold("if len(producer.users) > 1:", "if len(producer.users) > 2:"),
    # coupling
    _atoms("while (bound := self._product[rows, 0] != 0).any():", "if (bound := self._product[rows, 0] != 0).any():"),
    _atoms("            self._parent[b] = a  #", "            self._parent[b] = a\n            return  #"),
    _atoms("            reasons[rows] = reason\n", "            reasons[rows[:1]] = reason\n"),
    _atoms("left, right = np.repeat(outer, len(inner), 0), np.tile(inner, (len(outer), 1))", "left, right = np.tile(outer, (len(inner), 1)), np.repeat(inner, len(outer), 0)"),
    _axes("elif size % n == 0:", "elif size == n:"),
    _axes("pin(atoms, b, reason)\n    elif is_fixed(a)", "pass\n    elif is_fixed(a)"),
    _live("wanted = site.counts & ~live[site.index].all(1)", "wanted = ~live[site.index].all(1)"),
    _live("live[empty[(~live[empty]).sum(1).argmin()]] = True", "live[empty] = True"),
    _conv("sweep.unite(inner, weight[1], node)", "pass"),
    _conv('sweep.pin([*x[at + 1 :], *weight[2:]], node, "positions under a kernel")\n    group, inner', "group, inner"),
    _join("axes[dim] = (concatenated([r for r in rows if r is not None]),)", "axes[dim] = (concatenated([r for r in rows if r is not None][::-1]),)"),
    _norm("axes[1] = sweep.unite(axes[1], parameters[0], node)\n    if call.get(\"training\"):", "pass\n    if call.get(\"training\"):"),
    # quantization
    _affine("low, high = min(0.0, low), max(0.0, high)", "pass"),
    _affine("return cls(scale, min(last, max(first, first + round(-low / scale))), form)", "return cls(scale, min(last, max(first, round(-low / scale))), form)"),
    _weights("scales = rows.flatten(1).abs().amax(1) / largest_code(bits)", "scales = rows.flatten(1).amax(1) / largest_code(bits)"),
    _weights("heaviest = torch.from_numpy(heaviest_pairs(weight.detach().double().numpy())) / (LIMIT - 1)", "heaviest = torch.from_numpy(heaviest_pairs(weight.detach().double().numpy())) / (2 * LIMIT - 1)"),
    _encode("both = (scales.double() * input_scale).float()", "both = scales"),
    _encode("scales = widen_for_bias(scales, bias, input_scale)", "pass"),
    _encode("if axis is None:", "if axis is not None:"),
    _pairs("for side in (pairs, -pairs):", "for side in (pairs,):"),
    _pairs("return not (2 < len(shape) < 5 and shape[1] == 1 and shape[0] == groups)", "return not (2 < len(shape) < 5 and shape[1] == 1)"),
    # frontend and backends
    _capture("program.ranges = {symbol: (max(2, low), high) for symbol, (low, high) in program.ranges.items()}", "pass"),
    _capture("copy = tensor.detach().clone()", "copy = tensor.detach()"),
    _capture("check_same(program, args, kwargs, want)\n    if warning", "if warning"),
    _sizes("return torch.cat([value, value], dim) if value.shape[dim] == 1 else value", "return value"),
    _onnx("_SHIFT = 128", "_SHIFT = 127"),
    _onnx("if by_columns != weight.turned and codes.ndim == 2:", "if False:"),
    # devices: nothing is forgotten on the other side
    _moves("passes/train/loop.py", "loss = self._loss(*put((some, wanted), self.device))", "loss = self._loss(some, wanted)"),
    _moves("passes/train/validation.py", "some, wanted = put((args, target), self._device)", "some, wanted = args, target"),
    _moves("passes/train/loop.py", "        place(twin, device)", "        pass"),
    _moves("passes/train/loop.py", "self.objective = place_module(objective, device)", "self.objective = objective"),
    _moves("passes/train/loop.py", "self.checkpoint.write(take(self._state()))", "self.checkpoint.write(self._state())"),
    _moves("passes/train/teachers.py", "        place(self.program, torch.device(device))", "        pass"),
    _moves("passes/train/zeros.py", "name: put(zero, parameters[name].device) for", "name: zero for"),
    _moves("passes/train/population.py", "take(moments.result())", "moments.result()"),
    _moves("passes/common/calibration_batches.py", "yield put(leaves, program.device)", "yield leaves"),
    _moves("passes/common/layer_rows.py", "put(torch.unravel_index(chosen, sizes), y.device)", "torch.unravel_index(chosen, sizes)"),
    _moves("passes/prune/importance/gradients.py", "    args, target = put((args, target), twin.device)", "    pass"),
    _moves("passes/prune/importance/gradients.py", "take(total[id(t)])", "total[id(t)]"),
    _moves("passes/prune/importance/activation.py", "take(total)", "total"),
    _moves("passes/prune/depth/layer_importance.py", "            args, target = put((args, target), twin.device)", "            pass"),
    _moves("passes/lowrank/whitening.py", "totals = take(totals)", "totals = dict(totals)"),
    _moves("passes/quant/refine/twins.py", 'stored = put({"weight": codes.weight.real(), "bias": bias}, self._device)', 'stored = {"weight": codes.weight.real(), "bias": bias}'),
    _moves("passes/quant/refine/round_layer.py", "integers=take(", "integers=("),
    _moves("passes/quant/refine/analytic_bias.py", "take(batch.sum(0, keepdim=True))", "batch.sum(0, keepdim=True)"),
    _moves("passes/quant/weight_only/gptq_codes.py", "put(leaves, twin.device)", "leaves"),
    _moves("passes/refit/sums.py", "found.fit.taken()", "found.fit"),
    _moves("passes/blocks/teacher.py", "found = [take(", "found = [("),
    _moves("fxopt/ir/program.py", "args, kwargs = put((args, kwargs), self.device)", "pass"),
    _moves("fxopt/ir/placement.py", "        if isinstance(value, torch.device) and value != device:", "        if False:"),
    _moves("fxopt/ir/placement.py", "            store[name] = tensor\n        for module, nodes in calls:", "            pass\n        for module, nodes in calls:"),
)  # fmt: skip


def _killed_by(mutant: Mutant, copy: Path) -> str | None:
    """The first test that fails, None if none does. Raises ValueError where the line is not there once."""
    path = copy / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:  # tests/test_mutants.py looks whether it is
        raise ValueError(f"{mutant.file} holds {text.count(mutant.old)} of: {mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new))
    report = copy / "failed.txt"
    report.unlink(missing_ok=True)
    try:
        if (child := os.fork()) == 0:
            _test(mutant.tests, copy, report)
        os.waitpid(child, 0)
    finally:
        path.write_text(text)
    return report.read_text() if report.exists() else None


def _test(tests: tuple[str, ...], copy: Path, report: Path) -> None:
    """In the child: run the tests of the copy until one fails, and write down which."""
    import pytest

    class Report:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                path.write_text(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                path.write_text(report.nodeid)

    path = report
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    pytest.main(["-x", "-q", "-n", "0", "-m", "not zoo", "-p", "no:cacheprovider", *tests], plugins=[Report()])
    os._exit(0)


def main(words: list[str]) -> int:
    """Apply the mutants one after the other; print what killed each, and return how many survived."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import onnx  # noqa: F401  # loaded once for all, before the processes part
    import torch  # noqa: F401

    chosen = [m for m in MUTANTS if all(word in f"{m.file} {m.old}" for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for part in _PARTS:
            if (source := ROOT / part).is_dir():
                shutil.copytree(source, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, copy / part)
        for number, mutant in enumerate(chosen, 1):
            start = time.perf_counter()
            killer = _killed_by(mutant, copy)
            survivors += killer is None
            where = f"{number}/{len(chosen)} {mutant.file}: {mutant.old.splitlines()[0][:70]}"
            print(f"{where}\n    {killer or 'SURVIVES'}  ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
