"""Which shards of a stage are complete: an empty file per shard in the stage's logs, gone when the stage is removed."""

from pathlib import Path

from nemo_srlm.core.stage import Ref, stage_directory


def shard_mark(run_dir: Path, ref: Ref, shard: int, num_shards: int) -> Path:
    """Present when all items of the shard are done."""
    return stage_directory(run_dir, ref) / "logs" / f"shard-{shard:05d}-of-{num_shards:05d}"


def done_shards(run_dir: Path, ref: Ref, num_shards: int) -> set[int]:
    return {k for k in range(num_shards) if shard_mark(run_dir, ref, k, num_shards).exists()}
