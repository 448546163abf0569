"""What a run is told: the schema of its settings, YAML files and overrides composed into it, and the rules between them."""
