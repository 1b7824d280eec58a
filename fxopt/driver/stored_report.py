"""A report in the folder that it describes: written with the version of its fields, and only read in the same version."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from fxopt.backend import read_json
from fxopt.driver.part import Document
from fxopt.errors import BackendError, UsageError


class StoredReport(Document):
    """``FILE`` is its name in the folder, ``WHAT`` its kind for messages, and ``WAY_OUT`` how to get such a folder."""

    FILE: ClassVar[str]
    WHAT: ClassVar[str]
    WAY_OUT: ClassVar[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The report in a folder. Raises UsageError where there is none, or one of another version."""
        path, current = folder / cls.FILE, cls.model_fields["schema_version"].default
        try:
            values = read_json(path)
        except BackendError as error:
            raise UsageError(f"{folder} holds no {cls.WHAT}: {error.what}", way_out=cls.WAY_OUT) from None
        if (version := values.get("schema_version")) != current:
            raise UsageError(
                f"{path} is of another version of fxopt",
                expected=f"schema_version {current}",
                got=f"schema_version {version}",
                way_out=f"{cls.WAY_OUT}; or read it with the fxopt that wrote it",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"{path} is no {cls.WHAT}: {where}: {first['msg']}", way_out=cls.WAY_OUT) from None
