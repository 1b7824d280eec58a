"""The text form of passes and backends: round trips, and refusal of everything that is not a call of literals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxopt import registry
from fxopt.errors import OptionError, UnknownNameError, UsageError
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.support.spec import format_call, parse_call, parse_calls

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True).filter(lambda n: not _is_keyword(n))
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def _read_or_refuse(text):
    try:
        return parse_calls(text)
    except UsageError as error:
        return error


def _is_keyword(name):
    import keyword

    return keyword.iskeyword(name)


@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, LITERALS, max_size=3)), min_size=1, max_size=4))
def test_calls_round_trip(calls):
    assert parse_calls(", ".join(format_call(name, options) for name, options in calls)) == calls


@given(NAMES, st.dictionaries(NAMES, LITERALS, max_size=3))
def test_one_call_with_a_prefix_round_trips(name, options):
    assert parse_call(format_call(f"zoo:{name}", options), "model") == (f"zoo:{name}", options)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_usage(text):
    assert isinstance(_read_or_refuse(text), (list, UsageError))  # anything else would have been raised


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "__import__('os').system('touch {mark}')",
            "\"__import__('os').system('touch {mark}')\" is not a name or a call of literals",
        ),
        ("drop_noop(x=__import__('os').system('touch {mark}'))", "nothing was executed"),
        ("drop_noop(x=open('{mark}', 'w'))", "open('{mark}', 'w')"),
        ("drop_noop(3)", "write options by name, drop_noop(option=value)"),
        ("drop_noop(lambda: 3)", "write options by name"),
        ("drop_noop(x=lambda: 3)", "lambda"),
        ("[p for p in range(3)]", "[p for p in range(3)]"),
        ("a(x=[p for p in range(3)])", "[p for p in range(3)]"),
        ("a(x=b(y=1))", "'b(y=1)' is not"),
        ("a(b(c(1)))", "write options by name"),
        ("a(**{{'x': 1}})", "{{'x': 1}}"),
        ("a(x=1, x=2)", "a has the option 'x' twice"),
        ("a.b(x=1)", "'a.b(x=1)'"),
        ("a(x=f'{{1}}')", "f'{{1}}'"),
        ("a(x=y)", "'y'"),
        ("a(x=1", "was never closed"),
        ("a b", "\n  a b\n"),
        ("a], [b", "cannot be read"),
        ("a)(b", "(a)(b)"),
        ("x=1", "(x=1)"),
        ("*a", "*a"),
        ("a)", "unmatched ')'"),
        ("1", "'1'"),
        ("'a'", "\"'a'\""),
    ],
)
def test_refused_unexecuted_with_the_reason(text, words, tmp_path):
    mark = tmp_path / "mark"
    text, words = text.format(mark=mark), words.format(mark=mark)
    with pytest.raises(UsageError) as caught:
        parse_calls(text)
    assert words in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text", ["a(x=" + "[" * 5000 + "]" * 5000 + ")", "a(" * 3000 + ")" * 3000, "a(x=" + "-" * 100_000 + "1)"]
)
def test_huge_nesting_is_refused(text):
    with pytest.raises(UsageError):
        parse_calls(text)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown pass 'fold_bach_norm'; did you mean 'fold_batch_norm'"):
        Pipeline.parse("fold_bach_norm")
    with pytest.raises(UnknownNameError, match=r"option of quantize 'schem'; did you mean 'scheme'"):
        Pipeline.parse("quantize(schem='int8')")


def test_an_option_of_the_wrong_type_names_what_it_takes():
    with pytest.raises(OptionError, match=r"quantize\(scheme=…\).*got 3"):
        Pipeline.parse("quantize(scheme=3)")


def test_a_pipeline_is_its_text():
    text = "drop_noop, fold_batch_norm, fold_constants"
    assert str(Pipeline.parse(text)) == text
    assert Pipeline.parse(text) == Pipeline.parse(["drop_noop", "fold_batch_norm, fold_constants"])
    assert hash(Pipeline.parse(text)) == hash(Pipeline.parse(text))
    assert Pipeline.parse("") == Pipeline()
    assert all(str(Pipeline.parse(name)) == name for name in registry.names("pass"))
