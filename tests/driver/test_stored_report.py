"""Every report that is read again: only the version that is known, and no file that is something else."""

import json

import pytest

from fxopt.automl.nas.report import NasReport
from fxopt.automl.report import SearchReport
from fxopt.driver.report import BuildReport
from fxopt.errors import UsageError

each_report = pytest.mark.parametrize("report", [BuildReport, SearchReport, NasReport])


@each_report
@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_report_of_another_version_is_not_read(report, version, tmp_path):
    (tmp_path / report.FILE).write_text(json.dumps({"schema_version": version}))
    with pytest.raises(UsageError, match="of another version of fxopt") as refused:
        report.read(tmp_path)
    assert (refused.value.expected, refused.value.got) == ("schema_version 1", f"schema_version {version}")


@each_report
@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1, "model": 3}', None])
def test_a_folder_without_a_report_is_refused_with_the_way_out(report, text, tmp_path):
    if text is not None:
        (tmp_path / report.FILE).write_text(text)
    with pytest.raises(UsageError, match=report.WHAT) as refused:
        report.read(tmp_path)
    assert "give the folder that `fxopt " in refused.value.way_out
