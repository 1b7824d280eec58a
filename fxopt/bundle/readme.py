"""The two README files of a bundle: how to run it on the device, and how to compile the program there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from fxopt.backend import Manifest
from fxopt.errors import UsageError
from fxopt.runtime.generate import Decoder
from fxopt.target import Target


def device_readme(stage: Path, manifest: Manifest, target: Target, name: str) -> str:
    """Requirements and commands of the bundle in the folder ``stage``; ``name`` is that of its file, without ending."""
    files = " ".join(_argument(f"{fact.name}.npy") for fact in manifest.tensors)
    file, name = shlex.quote(f"{name}.tar.gz"), shlex.quote(name)
    shapes = [f"    {fact.name}: {fact.dtype}[{', '.join(map(str, fact.shape))}]" for fact in manifest.tensors]
    return "\n".join(
        [
            f"A model for {target.name} ({target.triple}), built by fxopt with its backend {manifest.backend}. It needs",
            f"Linux with {_needs(stage)}, and no Python.",
            "",
            f"    mkdir {name} && tar xzf {file} -C {name} && cd {name}",
            "    bin/run model                              run it on numbers that are made up",
            f"    bin/run model {files} --out results",
            "    bin/run model --times 100                  time it; --threads 1 in one thread",
            *["    bin/run model --generate 20 17,4,80        up to 20 tokens after each prompt"]
            * _generates(manifest),
            "    bin/run --help",
            "",
            "Inputs, in this order:",
            *shapes,
            "",
            "A .npy file is one of numpy.save. Any other file is the bytes of the example shape in model/interface.txt.",
            "Exit codes: 0 done, 1 the model or the system failed, 2 the command or an input is wrong.",
            "Where the system is older than that, compile the program there: src/README. licenses/ belongs to lib/.",
            "",
        ]
    )


def _generates(manifest: Manifest) -> bool:
    """Whether the model is a causal language model with its cache handed in and out."""
    try:
        Decoder.of(manifest)
    except UsageError:
        return False
    return True


def _argument(file: str) -> str:
    """The name of a file, quoted for a shell; one that begins with a dash would be an option."""
    return shlex.quote(f"./{file}" if file.startswith("-") else file)


def source_readme(command: str) -> str:
    """How the program was compiled, and how to compile it again."""
    return (
        "The program was compiled by this command, in the folder of the bundle. On the device, begin it with g++;\n"
        "it needs GCC 9 or newer.\n\n"
        f"    {command}\n\n"
        "To call a model from your own program, take model.hpp with tvm.cc or onnx.cc, whichever is here.\n"
    )


def _needs(stage: Path) -> str:
    """The oldest libraries that the bundle runs with, by the versions of the symbols that it imports."""
    files = [*stage.glob("bin/*"), *stage.glob("lib/*"), *stage.glob("model/*.so")]
    held = b"\n".join(path.read_bytes() for path in files)
    needs = {
        "glibc {} or newer": rb"\bGLIBC_(\d+(?:\.\d+)+)",
        "a libstdc++.so.6 that has GLIBCXX_{}": rb"\bGLIBCXX_(\d+(?:\.\d+)+)",
    }
    found = {words: [tuple(map(int, v.split(b"."))) for v in re.findall(asked, held)] for words, asked in needs.items()}
    return " and ".join(words.format(".".join(map(str, max(v)))) for words, v in found.items() if v)
