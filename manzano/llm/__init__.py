"""The unified autoregressive LLM: joint vocabulary, joint loss, sampling, backbones."""
