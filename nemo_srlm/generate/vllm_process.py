"""vLLM's own processes end with the process that started them: a killed worker leaves no engine on its GPU.

vLLM starts the engine core, and below it one process per GPU of a tensor-parallel engine, with multiprocessing, and ends
them by messages. A parent that is killed sends none. So the functions that these processes run are replaced by ones that
first ask Linux to kill the process when its parent dies. vLLM is imported here: set its environment before.
"""

import multiprocessing
from typing import Any

from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.executor.multiproc_executor import WorkerProc

from nemo_srlm.core.process import die_with_parent

_RUN_ENGINE_CORE, _RUN_WORKER = EngineCoreProc.run_engine_core, WorkerProc.worker_main


def end_with_parent() -> None:
    """Has every process that vLLM starts from now on, in this process and below it, die with its parent."""
    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
    WorkerProc.worker_main = staticmethod(run_worker)


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """The engine core's process."""
    _die_with_parent()
    end_with_parent()  # a spawned process has imported vLLM anew
    _RUN_ENGINE_CORE(*args, **kwargs)


def run_worker(*args: Any, **kwargs: Any) -> None:
    """The process of one GPU."""
    _die_with_parent()
    _RUN_WORKER(*args, **kwargs)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    die_with_parent(parent.pid)
