"""Published commands at a size that a CPU runs in seconds: tiny models, tiny data, few steps."""
