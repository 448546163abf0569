"""The process of one check: `python -m nemo_srlm.doctor.worker NAME DIRECTORY STEPS` (see check.py)."""

import sys
import traceback
from pathlib import Path

from nemo_srlm.doctor.check import Failed, Place, write_answer
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.doctor.table import CHECKS
from nemo_srlm.errors import UserError


def main() -> None:
    name, directory, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    (check,) = (check for check in CHECKS if check.name == name)
    answer = directory / f"{name}.json"
    try:
        figures = check.function(Place(directory, machine(), steps))
    except (Failed, UserError) as error:
        write_answer(answer, "failed", str(error), {})
    except Exception as error:  # what a check meets on an unfit machine is of any kind
        traceback.print_exc()
        write_answer(answer, "failed", f"{type(error).__name__}: {error}", {})
    else:
        write_answer(answer, "ok", "", figures)


if __name__ == "__main__":
    main()
