"""OpenAI-compatible servers: calls, replies, who answers there, and what was paid for once."""
