"""Settings: their schema, the composition of YAML files and overrides, and the checks of the result."""
