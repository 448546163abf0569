"""What every room shares: records, files, manifests, the stage contract, the pipeline graph, progress, child processes."""
