"""LLMXAI in a real browser, and its server without one."""
