"""small_vit and small_lm: splits that stay apart, a metric that counts right, shipped weights, tokens of artifacts."""

import json
import math
import platform
import struct
import sys

import numpy as np
import pytest
import torch

import fxopt
from fxopt import registry
from fxopt.errors import DataError, RecipeError
from fxopt.models import small_lm as lm_module
from fxopt.models import small_vit as vit_module
from fxopt.models import train
from fxopt.models.glyph_images import ALPHABET, draw
from fxopt.models.next_token import NextToken, cut_windows
from fxopt.models.python_topics import topic_text
from fxopt.workload import find_workload

pytest.importorskip("transformers")
pytest.importorskip("PIL")
pytestmark = pytest.mark.usefixtures("one_thread")
SHIPPED = {"small_vit": vit_module, "small_lm": lm_module}


def _metadata(path):
    """Read by the format's own words: eight bytes of length, then JSON."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


# ---- the text ------------------------------------------------------------------------------------------------------


def test_no_paragraph_is_in_two_splits_and_each_split_has_its_share():
    texts = topic_text()
    parts = {split: {part.strip() for part in text.split("\n\n")} - {""} for split, text in texts.items()}
    assert not any(parts[a] & parts[b] for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")))
    shares = {split: len(text) / sum(map(len, texts.values())) for split, text in texts.items()}
    assert 0.7 < shares["train"] < 0.9
    assert min(shares.values()) > 0.05
    assert "".join(texts.values()).count("method") > 100, "this is Python's help"


def test_a_python_without_its_help_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="without the topics of its help"):
        topic_text.__wrapped__()


def test_windows_follow_each_other_and_overlap_by_the_token_to_tell():
    assert cut_windows(list(range(10)), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


COUNTING = NextToken(
    lambda: {split: cut_windows(list(range(41)), 4) for split in ("train", "validation", "test")},
    lambda batch: (torch.zeros(batch, 0, dtype=torch.int64), ()),
)


def _next(ids, mask, state):
    """Sure that tokens count up, but for 7 and 8, after which it says 0."""
    logits = torch.nn.functional.one_hot(torch.where((ids == 7) | (ids == 8), 0, ids + 1), 64) * 50.0
    return logits.numpy(), state


def test_the_metric_is_the_share_of_tokens_that_come_next():
    assert COUNTING.evaluate(_next) == 38 / 40
    assert COUNTING.perplexity(_next) == pytest.approx(math.exp(2 * 50 / 40), rel=1e-5)
    assert COUNTING.perplexity(lambda ids, *rest: (np.zeros((*ids.shape, 64)), rest)) == pytest.approx(64)


def test_batches_are_shuffled_by_their_seed_and_halves_are_disjoint():
    (first, _), (again, _), (other, _) = (
        next(iter(COUNTING.batches("train", batch_size=10, seed=s))) for s in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert sorted(first[0].flatten().tolist()) == list(range(40))
    halves = [
        set(w.flatten().tolist()) for i in (0, 1) for _, w in COUNTING.half(i).batches("validation", batch_size=9)
    ]
    assert len(halves[0]) == len(halves[1]) == 20
    assert not halves[0] & halves[1]
    with pytest.raises(DataError, match="no split 'tset'"):
        next(COUNTING.batches("tset", batch_size=1))


# ---- the models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_manual_and_the_file_tell_size_and_making(name):
    path, parameters = SHIPPED[name].WEIGHTS, sum(p.numel() for p in find_workload(name).model().parameters())
    assert f"{parameters / 1e6:.1f} M parameters" in registry.get("workload", name).__doc__
    assert path.stat().st_size < 2_000_000
    metadata = _metadata(path)
    assert metadata["command"].startswith(f"python -m fxopt.models.train {name} --out ")
    assert SHIPPED[name].COMMAND.startswith(metadata["command"].partition(" --out ")[0])
    assert int(metadata["epochs"]) == train.TRAININGS[name].epochs


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_language_model_is_as_good_as_its_file_says(split):
    metadata, workload = _metadata(lm_module.WEIGHTS), find_workload("small_lm")
    same = metadata["python"].rpartition(".")[0] == platform.python_version().rpartition(".")[0]
    reached = workload.data.evaluate(workload.model(), split)
    assert abs(reached - float(metadata[split])) < (0.003 if same else 0.05), "the text is that of this Python"


def test_the_vision_transformer_reads_glyphs_that_were_never_drawn_before():
    images, labels = draw(180, 32, ALPHABET, seed=1234)
    with torch.no_grad():
        answers = find_workload("small_vit").model()(images).argmax(1)
    promised = float(_metadata(vit_module.WEIGHTS)["test"])
    assert (answers == labels).float().mean() > promised - 0.1, "four standard deviations of 180 images"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_vision_transformer_is_as_good_as_its_file_says(split):
    workload = find_workload("small_vit")
    reached = workload.data.evaluate(workload.model(), split)
    assert abs(reached - float(_metadata(vit_module.WEIGHTS)[split])) < 0.001


@pytest.mark.parametrize("name", SHIPPED)
def test_missing_weights_name_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setattr(SHIPPED[name], "WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(RecipeError, match=rf"gone.safetensors(.|\n)*fxopt.models.train {name} --out"):
        find_workload(name).model()


def test_training_twice_gives_the_same_bytes_and_a_size_only_glyphs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = {split: windows[:24] for split, windows in lm_module.topic_windows().items()}
    monkeypatch.setattr(lm_module, "topic_windows", lambda: few)
    made = []
    for _ in range(2):
        train.main(["small_lm", "--epochs", "1", "--threads", "1", "--out", "a.safetensors"])
        made.append((tmp_path / "a.safetensors").read_bytes())
    assert made[0] == made[1]
    with pytest.raises(SystemExit):
        train.main(["small_lm", "--size", "32", "--out", "a.safetensors"])
    assert "--size" in capsys.readouterr().err


# ---- tokens --------------------------------------------------------------------------------------------------------


def _prompts():
    return [row[: 24 + 5 * i].tolist() for i, row in enumerate(lm_module.topic_windows()["test"][::60][:6])]


def _theirs(prompts, most):
    """What transformers' own generate makes of each prompt alone."""
    model = find_workload("small_lm").model().model
    made = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, pad_token_id=0
        )
        made.append(out[0, len(prompt) :].tolist())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("passes", [("clean_up",), ("quantize_embeddings", "quantize_dynamic"), ("quantize",)])
def test_greedy_tokens_are_those_of_eager_and_of_int8_nearly_all(backend, passes, tmp_path):
    """64 tokens after each of six prompts; int8 is asked for each token after eager's own."""
    fxopt.build(fxopt.Recipe(model="small_lm", passes=passes, backend=backend), tmp_path / "built", measure=False)
    artifact, prompts = fxopt.load(tmp_path / "built"), _prompts()
    want = _theirs(prompts, 64)
    assert any(len(set(row)) > 8 for row in want), "it says something"
    if passes == ("clean_up",):
        assert artifact.generate(prompts, 64) == want
    assert _agreement(artifact, prompts, want, "float") > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_greedy_tokens_with_a_cache_in_int8(backend, tmp_path):
    recipe = fxopt.Recipe(model="small_lm(cache='int8')", passes=("clean_up",), backend=backend)
    fxopt.build(recipe, tmp_path / "built", measure=False)
    artifact, prompts = fxopt.load(tmp_path / "built"), _prompts()
    assert _agreement(artifact, prompts, _theirs(prompts, 64), "int8") > 0.95
    assert len(artifact.generate(prompts, 64)[0]) == 64


def _agreement(artifact, prompts, want, cache):
    """Share of eager's tokens that the artifact holds most likely, each asked for after those before, through the cache."""
    hits = 0
    for prompt, tokens in zip(prompts, want, strict=True):
        state, ids = lm_module.empty_state(1, cache), np.array([prompt], np.int64)
        for token in tokens:
            logits, state = artifact(ids, np.ones_like(ids), state)
            hits += int(logits[0, -1].argmax() == token)
            ids = np.array([[token]], np.int64)
    return hits / sum(map(len, want))
