"""Targets: files read strictly, machines detected from what Linux tells. Registry: files and packages of somebody's own."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import emulated_x86
import pytest

from fxopt import registry
from fxopt.cli.targets import target_rows
from fxopt.driver.load_file import load_file
from fxopt.errors import BackendError, OptionError, UnknownNameError, UsageError
from fxopt.passes.common.channel_multiple import channel_multiple
from fxopt.target import Target, find_target
from fxopt.target.detect import features_in, host, not_here

PI = 'triple = "aarch64-linux-gnu"\ncpu = "cortex-a72"\nfeatures = ["neon"]\ncores = 4\nmemory = 4000000000\n'


def _target(folder, text):
    (folder / "pi4.toml").write_text(text)
    return find_target(str(folder / "pi4.toml"))


# ---- targets -------------------------------------------------------------------------------------------------------


def test_a_file_gives_every_fact_and_its_name(tmp_path):
    assert _target(tmp_path, PI) == Target(
        name="pi4",
        triple="aarch64-linux-gnu",
        cpu="cortex-a72",
        features=frozenset({"neon"}),
        cores=4,
        memory=4_000_000_000,
    )


def test_only_the_triple_is_needed(tmp_path):
    target = _target(tmp_path, 'triple = "riscv64-linux-gnu"\nname = "board"')
    assert (target.name, target.cpu, target.features, target.cores, target.memory) == (
        "board", "generic", frozenset(), 1, None,
    )  # fmt: skip


def test_a_misspelt_key_gives_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"key in .*pi4\.toml 'featurs'; did you mean 'features'"):
        _target(tmp_path, PI.replace("features", "featurs"))


@pytest.mark.parametrize(
    "line",
    [
        "triple = 3",
        'cores = "4"',
        "cores = 4.0",
        "cores = true",
        "cores = 0",
        "memory = -1",
        'features = "neon"',
        "features = [1]",
        "address = 22",
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_its_key(line, tmp_path):
    key = line.split()[0]
    rest = "\n".join(kept for kept in PI.splitlines() if not kept.startswith(key))
    with pytest.raises(OptionError, match=rf"pi4\.toml: {key}: takes .*got"):
        _target(tmp_path, f"{line}\n{rest}")


def test_a_missing_triple_comes_with_an_example(tmp_path):
    with pytest.raises(UsageError, match=r"pi4\.toml: the key 'triple' is missing, e\.g\. triple = "):
        _target(tmp_path, "cores = 4")


@pytest.mark.parametrize("content", [b"triple: aarch64", b"\xff\xfe\x00", None], ids=["yaml", "binary", "missing"])
def test_a_file_that_cannot_be_read_is_named(content, tmp_path):
    path = tmp_path / "pi4.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"target file .*pi4\.toml"):
        find_target(str(path))


def test_plain_values_hold_the_whole_target(tmp_path):
    target = _target(tmp_path, PI)
    values = target.to_dict()
    assert values.pop("features") == ["neon"]
    assert Target(**values, features=frozenset({"neon"})) == target


X86 = """processor\t: 0
model name\t: Some CPU with avx2 in its name
flags\t\t: fpu vme fma {extra}
vmx flags\t: vnmi preemption_timer avx_vnni
bugs\t\t: avx512f
"""
ARM = """processor\t: 0
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes {extra}
CPU implementer\t: 0x41
"""


@pytest.fixture
def detect(monkeypatch):
    """Detect a machine of another kind and system, where that has no /proc/cpuinfo."""
    read = Path.read_text

    def read_text(path, *args, **kwargs):
        if path == Path("/proc/cpuinfo"):
            raise FileNotFoundError(path)
        return read(path, *args, **kwargs)

    def detected(machine, system):
        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "system", lambda: system)
        return host.__wrapped__()

    return detected


@pytest.mark.parametrize(
    ("text", "extra", "features"),
    [
        (X86, "avx2", {"fma", "avx2"}),
        (X86, "avx2 avx_vnni", {"fma", "avx2", "avx-vnni"}),
        (X86, "avx2 avx512f avx512_vnni", {"fma", "avx2", "avx512f", "avx512-vnni"}),
        (X86, "amx_bf16 amx_int8 avx512_bf16", {"fma", "amx-bf16", "amx-int8", "avx512-bf16"}),
        (ARM, "", {"neon"}),
        (ARM, "asimddp i8mm", {"neon", "neon-dotprod", "neon-i8mm"}),
    ],
)
def test_features_are_read_from_the_flags_line_alone(text, extra, features):
    assert features_in(text.format(extra=extra)) == features


@pytest.mark.parametrize(
    ("machine", "system", "triple"),
    [("arm64", "Darwin", "aarch64-apple-darwin"), ("AMD64", "Windows", "x86_64-pc-windows-msvc")],
)
def test_a_system_without_cpuinfo_has_a_triple_and_no_features(machine, system, triple, detect):
    found = detect(machine, system)
    assert (found.triple, found.features) == (triple, frozenset())


@pytest.mark.parametrize(("machine", "architecture"), [("AMD64", "x86_64"), ("arm64", "aarch64")])
def test_an_architecture_is_named_as_compilers_do(machine, architecture, detect):
    assert detect(machine, "Linux").triple == f"{architecture}-linux-gnu"


def _in_a_process(code, *start):
    done = subprocess.run([*(start or [sys.executable]), "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_linux_lists_the_features_that_a_process_is_told_of():
    """In a process of its own, which runs on the real machine where an emulator runs the tests."""
    told, listed = _in_a_process(
        "import json; from pathlib import Path; from fxopt.target.detect import features_in, host\n"
        "path = Path('/proc/cpuinfo'); listed = features_in(path.read_text() if path.exists() else '')\n"
        "print(json.dumps([sorted(host().features), sorted(listed)]))"
    )
    if not listed:
        pytest.skip("there is no /proc/cpuinfo, or no feature in it that targets have a word for")
    assert told == listed


@pytest.mark.parametrize(("processor", "features"), [("Haswell", {"avx2", "fma"}), ("Nehalem", set())])
def test_an_emulated_processor_has_its_own_features_not_those_of_the_machine(processor, features):
    if reason := emulated_x86.cannot_emulate():
        pytest.skip(reason)
    ask = "import json; from fxopt.target import host; print(json.dumps(sorted(host().features)))"
    assert _in_a_process(ask, *emulated_x86.python(processor)) == sorted(features)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells which cores a process may use")
def test_cores_are_those_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6})
    assert host.__wrapped__().cores == 3


@pytest.mark.parametrize(
    ("triple", "features", "saturates"),
    [
        ("x86_64-linux-gnu", {"avx2"}, True),
        ("x86_64-linux-gnu", {"avx2", "avx512f"}, True),
        ("x86_64-linux-gnu", {"avx2", "avx-vnni"}, False),
        ("x86_64-pc-windows-msvc", {"avx512f", "avx512-vnni"}, False),
        ("x86_64-linux-gnu", {"amx-int8"}, False),
        ("x86_64-linux-gnu", {"amx-bf16"}, True),
        ("aarch64-linux-gnu", {"neon"}, False),
        ("aarch64-linux-gnu", set(), False),
    ],
)
def test_int8_saturates_on_x86_before_vnni_alone(triple, features, saturates):
    assert Target("t", triple, features=frozenset(features)).int8_saturates is saturates


def test_a_feature_that_nobody_looks_for_gives_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"feature in .*pi4\.toml 'neon-dot'; did you mean 'neon-dotprod'"):
        _target(tmp_path, PI.replace('"neon"', '"neon-dot"'))


def test_every_target_that_is_described_can_be_read_and_is_registered():
    described = {path.stem for path in (Path(__file__).parents[2] / "models" / "targets").glob("*.toml")}
    assert len(described) >= 10
    for name in described:
        found = find_target(name)
        assert (found.name, found.address) == (name, None)
    assert set(registry.names("target")) >= {"host", *described}


def test_the_table_says_what_can_be_built_for_which_target():
    rows = {row["name"]: row for row in target_rows()}
    assert {"onnx", "fastest"} <= set(rows["host"]["builds"])
    assert "onnx" in rows["raspberry_pi_4"]["builds"]
    assert "has no address" in rows["raspberry_pi_4"]["cannot_build"]["fastest"]
    assert "riscv64-linux-gnu" in rows["riscv64"]["cannot_build"]["openvino"]


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A driver's program that says what it is told to, or fails."""
    from fxopt.target import detect as gpu

    def says(text, code=0):
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        gpu.nvidia.cache_clear()

    yield says
    gpu.nvidia.cache_clear()


def test_a_gpu_is_a_target_where_there_is_one(nvidia_smi):
    nvidia_smi(r"9.0, 81559\n9.0, 81559\n")
    found = find_target("cuda")
    assert (found.cpu, found.memory, found.features) == ("sm_90", 81559 * 2**20, host().features | {"cuda"})
    assert not_here(found) is None, "it is a part of this machine"
    row = next(row for row in target_rows() if row["name"] == "cuda")
    assert "onnx" in row["builds"]
    assert {"tvm", "openvino"} <= set(row["cannot_build"])


@pytest.mark.parametrize("text", ["", "No devices were found", "no driver, N/A"])
def test_without_a_gpu_the_target_says_so(text, nvidia_smi):
    nvidia_smi(text, 9)
    with pytest.raises(UsageError, match="no NVIDIA GPU here"):
        find_target("cuda")
    assert {"name", "absent"} == set(next(row for row in target_rows() if row["name"] == "cuda"))


def test_what_is_built_for_a_gpu_is_run_there_or_not_at_all(nvidia_smi, tmp_path, monkeypatch):
    import onnxruntime
    import torch

    from fxopt import capture
    from fxopt.backend import find_backend
    from fxopt.driver.lower import lower

    nvidia_smi(r"8.6, 24576\n")
    program = capture(torch.nn.Linear(4, 2).eval(), (torch.randn(1, 4),))
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    _, built = lower(program, find_backend("onnx"), find_target("cuda"), folders[0])
    assert "onnxruntime-gpu" in built.elsewhere
    asked, opened = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )

    def session(path, options, providers, **more):
        asked.append(providers)
        return opened(path, options, providers[-1:], **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    lower(program, find_backend("onnx"), find_target("cuda"), folders[1])
    assert asked[-1] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(
        BackendError, match="'tvm' cannot build for 'cuda': the backend tvm has schedules for processors"
    ):
        lower(program, find_backend("tvm"), find_target("cuda"), folders[2])


def test_a_multiple_that_the_target_gives_is_taken(tmp_path):
    found = channel_multiple(_target(tmp_path, PI + "channel_multiple = 12\n"), None)
    assert (found.value, found.how) == (12, "given by the target pi4")


# ---- files given with --load ---------------------------------------------------------------------------------------

PASS = '''
from fxopt import Program, graph_pass
from fxopt.models.digits import digits
from fxopt.passes.clean.drop_noop import drop_noop

@graph_pass
def {name}(program: Program) -> None:
    """Do nothing."""

def helper() -> int:
    return 3
'''


@pytest.fixture
def registered():
    """Forget afterwards what a test registered."""
    with registry.restored():
        yield


@pytest.fixture
def load(registered, tmp_path):
    def run(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return load_file(tmp_path / name)

    return run


def test_a_file_registers_what_it_defines_and_not_what_it_imports(load):
    assert load(PASS.format(name="do_nothing")) == ["pass do_nothing"]
    assert registry.get("pass", "do_nothing").name == "do_nothing"


def test_a_file_may_define_each_kind(load):
    text = """
from dataclasses import dataclass
from typing import ClassVar
from fxopt import Workload
from fxopt.backend import Backend
from fxopt.target import Target

@dataclass(frozen=True)
class Nowhere(Backend):
    name: ClassVar[str] = "nowhere"

def small() -> Workload: ...
def board() -> Target: ...
value = Target("other_board", "aarch64-linux-gnu")
"""
    assert load(text) == ["backend nowhere", "workload small", "target board", "target other_board"]
    assert find_target("other_board").triple == "aarch64-linux-gnu"


def test_a_loaded_file_is_listed_with_its_summary(load):
    load(PASS.format(name="do_nothing"))
    (entry,) = (e for e in registry.entries("pass") if e.name == "do_nothing")
    assert (entry.summary, entry.origin) == ("Do nothing.", "fxopt_loaded_mine")


def test_a_missing_file_is_named(registered, tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*gone\.py"):
        load_file(tmp_path / "gone.py")


def test_a_file_that_is_not_python_is_refused(load):
    with pytest.raises(UsageError, match=r"mine\.txt is not a Python file"):
        load("hello", "mine.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_file_that_fails_says_how(text, reason, load):
    with pytest.raises(UsageError, match=rf"mine\.py: .*{reason}"):
        load(text)


def test_a_file_that_defines_nothing_is_refused(load):
    with pytest.raises(UsageError, match=r"mine\.py: it defines no pass"):
        load("from fxopt.passes.clean.drop_noop import drop_noop")


def test_a_registered_name_is_not_taken(load):
    builtin = registry.get("pass", "fold_batch_norm")
    with pytest.raises(UsageError, match="the pass 'fold_batch_norm' is taken by fxopt; rename it"):
        load(PASS.format(name="fold_batch_norm"))
    assert registry.get("pass", "fold_batch_norm") is builtin


def test_a_name_of_another_file_is_not_taken(load):
    load(PASS.format(name="do_nothing"))
    with pytest.raises(UsageError, match="the pass 'do_nothing' is taken by another file"):
        load(PASS.format(name="do_nothing"), "second.py")


# ---- packages ------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(registered, tmp_path, monkeypatch):
    """Install a package that registers one pass: ``package(value, {path: text})``."""

    def install(value, files):
        info = tmp_path / "theirs-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[fxopt.passes]\ntheir_pass = {value}\n")
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        registry.refresh()

    yield install
    monkeypatch.undo()
    registry.refresh()
    for name in ("their_module", "their_package"):
        sys.modules.pop(name, None)


THEIRS = 'def their_pass(program):\n    """Do something.\n\n    At length.\n    """\n'


def _listed():
    return {entry.name: entry for entry in registry.entries("pass")}


def test_a_listing_reads_the_summary_without_the_import(package):
    package("their_module:their_pass", {"their_module.py": "raise RuntimeError('imported')\n" + THEIRS})
    entry = _listed()["their_pass"]
    assert (entry.summary, entry.origin, entry.value) == ("Do something.", "theirs", "their_module:their_pass")
    assert "their_module" not in sys.modules


def test_a_listing_reads_the_doc_of_a_pass_that_is_assigned(package):
    text = "their_pass = rewrite_pass('their_pass', None, None, doc='Do it.\\nAt length.')"
    package("their_module:their_pass", {"their_module.py": text})
    assert _listed()["their_pass"].summary == "Do it."


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ('def their_pass(program): ...\n\n\ndef other():\n    """Of another."""\n', ""),
        ('X = 1\ndef their_pass(\n    program,\n    x=\')\',\n) -> int:\n    r"""Do it."""\n', "Do it."),
        ('def their_pass_of_another():\n    """No."""\ndef their_pass(program):\n    \'Do it.\'\n', "Do it."),
        ('class their_pass(Pass):\n    """Do it."""\n\n    x: int = 0\n', "Do it."),
    ],
    ids=["none", "raw", "quotes", "class"],
)
def test_a_listing_reads_the_doc_of_the_definition_alone(text, summary, package):
    package("their_module:their_pass", {"their_module.py": text})
    assert _listed()["their_pass"].summary == summary


@pytest.mark.parametrize(
    ("value", "head"),
    [
        ("their_package:their_pass", "from .one import their_pass"),
        ("their_package:their_pass", "from their_package.one import their_pass"),
        ("their_package:other", "from .one import their_pass as other"),
        ("their_package.one:their_pass", ""),
    ],
    ids=["relative", "absolute", "renamed", "direct"],
)
def test_a_listing_follows_reexports_and_imports_no_package_on_the_way(value, head, package):
    broken = f"raise RuntimeError('imported')\n{head}"
    package(value, {"their_package/__init__.py": broken, "their_package/one.py": THEIRS})
    assert _listed()["their_pass"].summary == "Do something."
    assert "their_package" not in sys.modules


@pytest.mark.parametrize("kind", registry.GROUPS)
def test_whatever_is_registered_has_a_summary(kind):
    listed = list(registry.entries(kind))
    assert listed
    assert [entry.name for entry in listed if not entry.summary] == []


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"their_module.py": "def f(:"},
        {"their_module.py": ""},
        {"their_module.py": "from their_module import their_pass"},
    ],
    ids=["missing", "syntax", "empty", "itself"],
)
def test_a_broken_package_does_not_break_the_listing(files, package):
    package("their_module:their_pass", files)
    listed = _listed()
    assert listed["their_pass"].summary == ""
    assert listed["fold_batch_norm"].summary


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "No module named 'their_module'\n  is the extra that holds 'their_module' installed"),
        ({"their_module.py": "import no_such_runtime"}, "is the extra that holds 'no_such_runtime' installed"),
        ({"their_module.py": "1 / 0"}, "ZeroDivisionError: division by zero"),
        ({"their_module.py": ""}, "no attribute 'their_pass'"),
    ],
    ids=["missing", "import", "raises", "attribute"],
)
def test_a_pass_that_cannot_be_loaded_names_its_package_and_why(files, words, package):
    package("their_module:their_pass", files)
    with pytest.raises(UsageError, match="the pass 'their_pass' of theirs") as caught:
        registry.get("pass", "their_pass")
    assert words in str(caught.value)
