"""What a worker that fails leaves behind, and which failures a launcher may try again."""

import errno
from pathlib import Path

import pytest

from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch.contract import record_failure

REF = Ref.parse("iter1/judge")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENFILE])
def test_a_passing_failure_of_the_system_is_no_mistake_of_the_user(tmp_path: Path, number: int):
    error = OSError(number, "words of the system", str(tmp_path / "file"))
    with pytest.raises(OSError, match="words of the system"):
        record_failure(error, REF, tmp_path)
    assert "run the same command again" in next(tmp_path.rglob("error*")).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EACCES])
def test_what_another_attempt_meets_again_is_one(tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]):
    mistake = record_failure(OSError(number, "words of the system", str(tmp_path / "file")), REF, tmp_path)
    assert isinstance(mistake, UserError)
    assert str(tmp_path / "file") in capsys.readouterr().err
