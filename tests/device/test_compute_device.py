"""Names of devices, errors where one is absent, and parts of batches, on a machine with a processor alone."""

import pytest
import torch
from cases.training import Plain, run, weights, workload

import fxopt
from fxopt.cli.main import main
from fxopt.driver.recipe import Recipe, make_recipe
from fxopt.errors import DeviceError, ResourceError, UnknownNameError
from fxopt.ir.placement import placed
from fxopt.numerics.compute_device import find_compute_device
from fxopt.passes.train.parts import in_parts
from fxopt.workload.batching import in_batches

pytestmark = pytest.mark.usefixtures("one_thread")
alone = pytest.mark.skipif(torch.accelerator.is_available(), reason="for a machine without an accelerator")


@pytest.mark.parametrize(
    ("name", "near"), [("cude", "cuda"), ("gpu", ""), ("cuda:one", "cuda:1"), ("cpu:1", "cpu"), ("", "")]
)
def test_an_unknown_name_has_the_nearest_in_its_error(name, near):
    with pytest.raises(UnknownNameError) as caught:
        find_compute_device(name)
    assert near in str(caught.value)
    assert "auto" in str(caught.value)


@alone
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "xpu"])
def test_an_absent_device_says_what_there_is_and_the_way_out(name):
    with pytest.raises(DeviceError) as caught:
        find_compute_device(name)
    error = caught.value
    assert name in error.what
    assert torch.__version__ in error.got
    assert "processor alone" in error.got
    assert "auto" in error.way_out


@alone
def test_auto_is_the_processor_where_there_is_nothing_else():
    assert find_compute_device("auto") == find_compute_device("cpu") == "cpu"


@alone
def test_a_build_for_an_absent_device_fails_before_anything_runs(tmp_path, monkeypatch, capsys):
    made = make_recipe({"model": "digits", "device": "cuda"})
    assert made.to_dict()["device"] == "cuda"
    assert "device" not in Recipe("digits").to_dict()
    for options in ({"recipe": made}, {"recipe": Recipe("digits"), "device": "cuda"}):
        with pytest.raises(DeviceError):
            fxopt.build(**options, out=tmp_path / "out")
    with pytest.raises(DeviceError):
        fxopt.search(made, tmp_path / "search", trials=1)
    with pytest.raises(DeviceError):
        fxopt.nas("digits", tmp_path / "nas", device="cuda")
    monkeypatch.setattr("sys.argv", ["fxopt", "build", "digits", "--out", str(tmp_path / "out"), "--device", "cuda"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == DeviceError.exit_code
    assert "there is no device 'cuda'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_processor_changes_nothing():
    program = workload().capture()
    tensors = program.tensors()
    with placed(program, "cpu") as there:
        assert all(there.tensors()[name] is tensor for name, tensor in tensors.items())


@pytest.mark.parametrize("count", [1, 2, 3, 8, 99])
def test_parts_of_a_batch_are_all_of_it_in_order(count):
    args, target = (torch.arange(8.0).reshape(8, 1), 3.5), torch.arange(8)
    parts = list(in_parts(args, target, count))
    assert len(parts) == min(count, 8)
    assert torch.equal(torch.cat([some[0] for some, _, _ in parts]), args[0])
    assert torch.equal(torch.cat([wanted for _, wanted, _ in parts]), target)
    assert sum(share for _, _, share in parts) == pytest.approx(1)
    assert all(some[1] == 3.5 for some, _, _ in parts)
    assert {len(some[0]) for some, _, _ in parts} <= {8 // min(count, 8), -(-8 // min(count, 8))}


def test_accumulated_gradients_are_those_of_the_whole_batch():
    options = "epochs=2, rate=0.02, batch_size=32, clip=0.5"
    whole, cut = (weights(run(f"finetune({options}, accumulate={n})", workload(Plain))) for n in (1, 5))
    assert all(torch.allclose(whole[name], cut[name], atol=1e-5) for name in whole)
    assert not all(torch.equal(whole[name], cut[name]) for name in whole)


def test_an_evaluation_that_fills_the_memory_goes_on_in_halves():
    seen = []

    def net(x):
        seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("full")
        return 2 * x

    x = torch.arange(10.0)
    assert torch.equal(in_batches(net, None)(x), 2 * x)
    assert seen[:3] == [10, 5, 3]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(lambda x: net(torch.cat([x] * 4)), None)(x)


def test_memory_that_is_full_in_any_pass_is_an_error_of_the_step():
    @fxopt.graph_pass(kind="approx")
    def fills(program: fxopt.Program) -> None:
        """Fill the memory."""
        raise torch.OutOfMemoryError("full")

    given = workload()
    with pytest.raises(ResourceError, match="memory is full") as caught:
        fxopt.Pipeline.of(fills()).run(given.capture(), workload=given, watchers=())
    assert caught.value.way_out
