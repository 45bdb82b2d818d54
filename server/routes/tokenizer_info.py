"""GET /tokenizer_info, in vLLM's shape: the tokenizer's configuration, for clients that render chats themselves."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.http.body import Context, json_response
from server.http.query import ignored_query
from server.schemas.plain_answers import AddedTokenInfo, TokenizerConfiguration

router = APIRouter(tags=["Tokens"])

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@router.get("/tokenizer_info")
async def get_tokenizer_info(request: Request, context: Context) -> Response:
    """Describe the tokenizer of a model as its tokenizer_config.json would, with the chat template in use."""
    model = context.models.find(request.query_params.get("model"))
    text_model = await model.text_model()
    info = model.info or model.client.info
    added = text_model.tokenizer.library.get_added_tokens_decoder()
    answer = TokenizerConfiguration(
        tokenizer_class="PreTrainedTokenizerFast",
        add_bos_token=text_model.tokenizer.adds_bos,
        model_max_length=info.max_model_len,
        eos_token_ids=list(text_model.tokenizer.eos_token_ids),
        chat_template=None if text_model.chat is None else text_model.chat.template.source,
        added_tokens_decoder={
            str(token_id): AddedTokenInfo(token.content, **{flag: getattr(token, flag) for flag in _FLAGS})
            for token_id, token in sorted(added.items())
        },
        **info.tokenizer.special_tokens,
    )
    return json_response(answer, ignored_query(request, "model"))
