"""The paper's comparisons at small scale."""
