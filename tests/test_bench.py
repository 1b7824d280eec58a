"""The benches run: figures are for a quiet machine, and nothing here looks at them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
BENCH = Path(__file__).parent / "bench"


def _run(name, *args):
    return subprocess.run([sys.executable, BENCH / name, *args], check=True, capture_output=True, text=True).stdout


def test_int8_has_a_row_for_each_quantizer():
    rows = json.loads(_run("int8.py", "--models", "mobilenet_v2", "--images", "8", "--blocks", "2", "--json"))
    assert [row["kind"] for row in rows] == ["fp32", "quantize_static", "fxopt"]
    assert [row["float"] for row in rows] == [53, 0, 0]
    assert rows[2]["sqnr_db"] > rows[1]["sqnr_db"] - 1


def test_start_up_and_main_job_print_a_table():
    assert "fxopt passes" in _run("start_up.py", "--rounds", "1")
    assert "digits_int8.toml" in _run("main_job.py", "--recipes", "digits_int8.toml", "--runs", "1")


def test_substitution_has_a_row_for_each_method(tmp_path):
    few = "--model resnet18 --seeds 0 1 --widths 8 8 8 8 --epochs 1 --examples 90 --samples 32 --block-epochs 1 --distill 1"
    command = [sys.executable, BENCH / "substitution.py", "run", *few.split(), "--latency", "0.95", "--entries", "off"]
    subprocess.run([*command, "--methods", "substitute", "low_rank"], check=True, cwd=tmp_path)
    command = [sys.executable, BENCH / "substitution.py", "show"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "| resnet18 | 0.95 | substitute |" in shown
    assert "| resnet18 | 0.95 | low_rank |" in shown


def test_recover_has_a_row_for_each_section(tmp_path):
    few = ("--models", "digits", "--epochs", "1", "--seeds", "2", "--examples", "360", "--out", tmp_path / "r.md")
    _run("recover.py", *few)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "r.md").read_text().splitlines()]
    pruned, *small, student, after = (row for row in rows if row and row[1][0].isdigit())
    assert float(pruned[1]) <= 0.25
    assert float(pruned[5]) > float(pruned[3]), "distillation won something back"
    assert [row[1] for row in small] == ["1", "2"][: len(small)]
    assert float(small[0][7]) > 10, "times smaller"
    assert float(small[0][4]) <= 1, "points lost"
    assert "±" in student[2]
    assert "±" in after[4]


def test_quant_accuracy_has_a_row_for_each_side_and_says_why_one_failed():
    one = ("accuracy", "--models", "digits", "--images", "32", "--sides")
    row = next(line for line in _run("quant_accuracy.py", *one, "fxopt").splitlines() if "| fxopt |" in line)
    _, _, _, _, before, after, _, ratio, integer, in_float, late, _, _ = (cell.strip() for cell in row.split("|"))
    assert float(after) > float(before) - 0.02
    assert float(ratio) > 30
    assert (integer, in_float, late) == ("24", "0", "0")
    assert "failed: not done after 0 s" in _run("quant_accuracy.py", *one, "ort", "--limit", "0.1")


def test_supernet_has_a_row_for_each_range(tmp_path):
    few = ("--model", "digits", "--epochs", "1", "--nets", "2", "--ranked", "3", "--tuned", "1", "--drawn", "12")
    lines = _run("supernet.py", *few, "--out", tmp_path / "s.md").splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines
        if line.startswith("| 0") or line.startswith("| 1")
    ]
    assert len(rows) == 2
    assert all(float(row[1]) < 1e-9 for row in rows), "each is proved"
    assert any(line.startswith("Kendall's tau over 3") for line in lines)


def test_training_loop_has_a_row_for_each_model():
    few = "--models perceptron resnet18 --size 32 --batches 2 --rounds 1 --json"
    rows = json.loads(_run("training_loop.py", *few.split()))
    assert [row["model"] for row in rows] == ["perceptron", "resnet18"]
    assert all(row["hand_ms"] > 0 and row["fxopt_ms"] > 0 for row in rows)


def test_tokens_of_every_float_side_are_those_of_transformers():
    few = "--model causal_lm:llama --backends onnx --tokens 6 --batch 2 --blocks 2"
    lines = _run("tokens.py", *few.split()).splitlines()
    rows = {
        cells[0]: cells for line in lines if len(cells := [cell.strip() for cell in line.strip("│┃").split("│")]) == 5
    }
    assert len(rows) == 6
    assert {name for name, cells in rows.items() if "int8" not in name and cells[4] != "100%"} == set()
    assert all(float(cells[1]) > 0 for cells in rows.values())


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there it takes minutes, and is for people to read")
def test_the_script_for_an_accelerator_says_that_there_is_none():
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = BENCH.parent / "gpu.sh"
    done = subprocess.run([script], check=True, capture_output=True, text=True, env=environment).stdout
    assert "torch finds no accelerator on this machine" in done
    assert "failed" not in done
