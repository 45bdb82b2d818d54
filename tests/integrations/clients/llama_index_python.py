"""LlamaIndex: chats whole and streamed, structured outputs, tools, embeddings.

Arguments: the server, its key, the model and a model that makes embeddings.
"""

import sys
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    name: Literal["Bern", "Oslo"]


def main(url: str, key: str, model: str, embedder: str) -> None:
    asked = {"api_base": f"{url}/v1", "api_key": key, "max_retries": 0}
    llm = OpenAILike(
        model=model, is_chat_model=True, is_function_calling_model=True, max_tokens=80, temperature=0, **asked
    )
    messages = [ChatMessage(role="user", content="Say hello.")]
    whole = llm.chat(messages).message.content
    assert "".join(part.delta for part in llm.stream_chat(messages)) == whole
    assert isinstance(llm.as_structured_llm(City).complete("A city.").raw, City)
    tool = FunctionTool.from_defaults(lambda name: f"{name} it is", name="choose", description="Choose", fn_schema=City)
    answer = llm.chat_with_tools([tool], user_msg="A city.", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert City(**call.tool_kwargs)
    texts = ["What floats?", "A boat floats."]
    vectors = OpenAILikeEmbedding(model_name=embedder, **asked).get_text_embedding_batch(texts)
    assert len(vectors) == 2


if __name__ == "__main__":
    main(*sys.argv[1:])
