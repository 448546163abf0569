"""Generation: requests and completions, the scheduler, vLLM, OpenAI-compatible endpoints, replicas."""
