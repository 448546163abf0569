"""The model families that can be converted: one file a family, one line in table.py."""
