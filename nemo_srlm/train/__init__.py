"""Training: losses, batches, layouts, estimates, metrics; megatron/ holds all that imports the training stack."""
