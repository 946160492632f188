"""The hybrid vision tokenizer: one ViT, a continuous and a discrete adapter (Manzano, Sec. 3.2)."""

from manzano.tokenizer.hybrid import HybridTokenizer, HybridTokenizerConfig

__all__ = ["HybridTokenizer", "HybridTokenizerConfig"]
