"""LLM-as-a-Judge: scores and their aggregation, health of the judge, EFT examples, preference pairs."""
