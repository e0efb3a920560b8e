"""Who generates: vLLM processes, OpenAI servers, pools of them, an offline engine."""
