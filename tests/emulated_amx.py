"""The tile registers of AMX in C, so that kernels for them run on a machine that has none."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fxopt.backends.tvm import Tvm, runtime
from fxopt.backends.tvm.tir.amx_intrinsics import emulated

COMPILER = shutil.which("cc") or shutil.which("gcc")
_SOURCE = """
#include <stdint.h>
#include <string.h>
/* Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3. */
static __thread struct { uint16_t width[8]; uint8_t rows[8]; uint8_t bytes[8][16][64]; int ready; } t;
int32_t fx_ldtilecfg(void *place) {
    uint8_t *p = place;
    if (p[0] != 1) __builtin_trap();
    memset(&t, 0, sizeof t);
    for (int i = 0; i < 8; i++) {
        t.width[i] = p[16 + 2 * i] | p[17 + 2 * i] << 8;
        t.rows[i] = p[48 + i];
        if (t.width[i] > 64 || t.rows[i] > 16) __builtin_trap();
    }
    return t.ready = 1;
}
int32_t fx_tilerelease(void) { return t.ready = 0; }
static void need(int i) { if (!t.ready || !t.rows[i] || !t.width[i]) __builtin_trap(); }
int32_t fx_tilezero(int8_t i) { need(i); memset(t.bytes[i], 0, sizeof t.bytes[i]); return 0; }
int32_t fx_tileloadd64(int8_t i, uint8_t *from, int64_t stride) {
    need(i);
    memset(t.bytes[i], 0, sizeof t.bytes[i]);
    for (int r = 0; r < t.rows[i]; r++) memcpy(t.bytes[i][r], from + r * stride, t.width[i]);
    return 0;
}
int32_t fx_tilestored64(int8_t i, uint8_t *to, int64_t stride) {
    need(i);
    for (int r = 0; r < t.rows[i]; r++) memcpy(to + r * stride, t.bytes[i][r], t.width[i]);
    return 0;
}
int32_t fx_tdpbusd(int8_t c, int8_t a, int8_t b) {
    need(a); need(b); need(c);
    if (t.width[a] / 4 != t.rows[b] || t.rows[a] != t.rows[c] || t.width[b] != t.width[c]) __builtin_trap();
    for (int m = 0; m < t.rows[c]; m++)
        for (int n = 0; n < t.width[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &t.bytes[c][m][4 * n], 4);
            for (int k = 0; k < t.width[a]; k++)
                sum += (int32_t)t.bytes[a][m][k] * (int8_t)t.bytes[b][k / 4][4 * n + k % 4];
            memcpy(&t.bytes[c][m][4 * n], &sum, 4);
        }
    return 0;
}
"""


@contextlib.contextmanager
def use_emulated_amx(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels call the functions in place of the instructions.

    They are compiled into a library in ``folder`` unless they are there.
    """
    assert COMPILER is not None
    source, library = folder / "amx.c", folder / "libamx.so"
    if not library.exists():
        source.write_text(_SOURCE)
        subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)

    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    monkeypatch.setattr(runtime, "allow_tiles", lambda: True)
    monkeypatch.setattr(Tvm, "elsewhere", lambda self, target: None)
    with emulated("fx_"):
        yield
