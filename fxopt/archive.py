"""A look into a ``.pt2`` archive before torch reads it, for torch would unpickle and evaluate parts of it."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from fxopt.errors import RecipeError


def check_archive(path: Path) -> None:
    """Raise RecipeError unless the file is a whole ``torch.export`` archive that loads without executing code of its own."""
