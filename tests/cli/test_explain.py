"""Manuals: read from source where that can be done, and then the same as of what is imported."""

import pytest

from fxopt import registry
from fxopt.cli.explain import explain, loaded_manual, read_manual
from fxopt.cli.read_options import Unreadable, read
from fxopt.errors import UnknownNameError, nearest

KINDS = ("pass", "backend", "workload", "analysis", "block")


@pytest.mark.parametrize("kind", KINDS)
def test_a_manual_read_from_source_is_that_of_what_is_imported(kind):
    for name in registry.registered(kind):
        manual = read_manual(name, kind, read(registry.origin(kind, name)))
        assert manual == loaded_manual(name, kind, registry.get(kind, name))


def test_every_option_says_what_it_is_for():
    said = {}
    for kind in ("pass", "backend", "workload"):
        for name in registry.registered(kind):
            for option in loaded_manual(name, kind, registry.get(kind, name)).options:
                said[f"{kind} {name}.{option['name']}"] = option.get("help", "")
    assert len(said) > 100
    assert [option for option, text in said.items() if not text] == []
    assert [option for option, text in said.items() if not text.endswith(".")] == []


def test_source_of_another_kind_is_not_guessed_at(tmp_path, monkeypatch):
    (tmp_path / "odd.py").write_text(
        "def twice(f):\n    return f\n\n@twice\ndef a(): ...\n\ndef b(x: int = len('abc') + undefined): ...\nc = print\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("a", "b", "c", "d"):
        with pytest.raises(Unreadable):
            read(f"odd:{name}")


def test_whatever_is_registered_is_explained_or_a_name_like_it_is_said():
    for name in ("raspberry_pi_4", "rpc", "host"):
        assert explain(name).text()
    assert "cortex-a72" in explain("raspberry_pi_4").text()
    for wrong, right in (
        ("pi5", "raspberry_pi_5"),
        ("quantise", "quantize"),
        ("bn", "fold_batch_norm"),
        ("Onnx", "onnx"),
    ):
        with pytest.raises(UnknownNameError) as caught:
            explain(wrong)
        assert right in caught.value.nearest or wrong == "bn"


def test_a_name_of_another_kind_is_said_to_be_one():
    with pytest.raises(UnknownNameError) as caught:
        registry.get("pass", "onnx")
    assert "'onnx' is a backend" in caught.value.way_out


@pytest.mark.parametrize(
    ("name", "known", "first"),
    [
        ("pi5", ["raspberry_pi_4", "raspberry_pi_5"], "raspberry_pi_5"),
        ("prune_chanels", ["prune_channels", "prune_layers"], "prune_channels"),
        ("VNNI", ["x86_64_v4", "x86_64_vnni"], "x86_64_vnni"),
        ("x", ["onnx"], None),
    ],
)
def test_the_nearest_names(name, known, first):
    assert next(iter(nearest(name, known)), None) == first
