"""LlamaIndex, unchanged, in its own environment: URL KEY QUESTION MODEL...; prints what it got."""

import json
import sys
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, key, question, *models = sys.argv[1:]
named = {"api_base": url, "api_key": key, "max_tokens": 16, "max_retries": 0}


def asked(model: str) -> dict[str, Any]:
    chat = OpenAILike(
        model=model,
        is_chat_model=True,
        additional_kwargs={"extra_body": {"neurorit": {"top_k": 2}}},
        **named,
    )
    older = OpenAILike(model=model, is_chat_model=False, **named)
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(content=question)]
    whole = chat.chat(messages)
    return {
        "chat": whole.message.content,
        "passages": [passage["id"] for passage in whole.raw.model_extra["neurorit"]["passages"]],
        "chat_pieces": [piece.delta for piece in chat.stream_chat(messages)],
        "complete": chat.complete(question).text,
        "complete_pieces": [piece.delta for piece in chat.stream_complete(question)],
        "older": older.complete(question).text,
        "older_pieces": [piece.delta for piece in older.stream_complete(question)],
    }


def refused() -> list[str]:
    try:
        return [OpenAILike(model="absent", is_chat_model=True, **named).complete(question).text]
    except Exception as error:
        return [type(error).__name__, str(error)]


print(json.dumps({model: asked(model) for model in models} | {"absent": refused()}))
