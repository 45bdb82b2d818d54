"""Small chat templates, each of the shape of a kind of models."""

from server.text.chat_templates.chat_template import ChatTemplate
from server.text.chat_templates.direct_templates import DirectTemplates

_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"
_TOOLS = "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def _turns(
    calls: str, *, tools: str = _TOOLS, turn: str = _TURN, turn_end: str = "<|im_end|>\n", end: str = _END
) -> str:
    """calls: written behind the content of a message with calls."""
    body = turn + "{% if m.tool_calls %}" + calls + "{% endif %}" + turn_end
    return tools + "{% for m in messages %}" + body + "{% endfor %}" + end


_ALL = "{% for c in m.tool_calls %}{% set f = c.function %}"
_EACH_ON_ITS_LINE = _ALL + "{% if loop.index > 1 or m.content %}{{ '\n' }}{% endif %}"
_JSON = "{{ f.arguments | tojson }}"
_TAGS = _EACH_ON_ITS_LINE + (
    '<tool_call>{{ "\n" }}{"name": "{{ f.name }}", "arguments": ' + _JSON + '}{{ "\n" }}</tool_call>{% endfor %}'
)
_ARGUMENTS = "{% for k, v in f.arguments.items() %}"
_PYTHON = _ALL + (
    "{{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %})"
)
_VALUE = "{{ v if v is string else v | tojson }}"

_MARK = "]<]minimax[>["

TEMPLATES = {
    "elements": _turns(
        f"{_MARK}<tool_call>{{{{ '\n' }}}}"
        + _ALL
        + f'{_MARK}<invoke name="{{{{ f.name }}}}">'
        + _ARGUMENTS
        + f"{_MARK}<{{{{ k }}}}>{{{{ v if v is string else v | tojson }}}}{_MARK}</{{{{ k }}}}>{{% endfor %}}"
        + f"{_MARK}</invoke>{{{{ '\n' }}}}{{% endfor %}}{_MARK}</tool_call>"
    ),
    "tags": _turns(_TAGS),
    "tags, text": _turns(
        _ALL
        + '<call>{"name": "{{ f.name }}", "arguments": {% if f.arguments is string %}{{ f.arguments }}'
        + ("{% else %}" + _JSON + "{% endif %}}</call>{% endfor %}")
    ),
    "compact": _turns(
        _ALL
        + '<call>{"name":"{{ f.name }}","arguments":{{ f.arguments | tojson(separators=(",", ":")) }}}</call>'
        + "{% endfor %}"
    ),
    "thought": _turns(
        _TAGS,
        turn="<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
    ),
    "list with ids": _turns(
        ("[TOOL_CALLS][" + _ALL + '{"name": "{{ f.name }}", "arguments": ' + _JSON)
        + ', "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]',
        turn="{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif not m.tool_calls %}{{ m.content }}{% endif %}",
        turn_end="{% if m.role == 'assistant' %}</s>{% endif %}",
        end="",
    ),
    "numbered": _turns(
        ("<|START_ACTION|>[" + _ALL)
        + ("{{ '\n' }}    " + '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", "parameters": ')
        + (_JSON + "}{% if not loop.last %},{% endif %}{% endfor %}{{ '\n' }}]<|END_ACTION|>")
    ),
    "section": _turns(
        ("<|calls_begin|>" + _ALL)
        + "<|call_begin|>{{ f.name }}<|sep|>{{ f.arguments }}<|call_end|>{% endfor %}<|calls_end|>"
    ),
    "one object": _turns(
        "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}"
        "{% set f = m.tool_calls[0].function %}" + '{"name": "{{ f.name }}", "parameters": ' + _JSON + "}<|eom_id|>",
        turn="<|im_start|>{{ m.role }}\n{% if not m.tool_calls %}{{ m.content }}<|eot_id|>{% endif %}",
        turn_end="",
    ),
    "parameters": _turns(
        _ALL
        + "{{ '\n\n' if loop.first and m.content else '\n' if not loop.first else '' }}<tool_call>{{ '\n' }}"
        + ("<function={{ f.name }}>" + _ARGUMENTS + "{{ '\n' }}<parameter={{ k }}>{{ '\n' }}" + _VALUE)
        + "{{ '\n' }}</parameter>{% endfor %}{{ '\n' }}</function>{{ '\n' }}</tool_call>{% endfor %}"
    ),
    "keys and values": _turns(
        (_ALL + "{{ '\n' }}<tool_call>{{ f.name }}{{ '\n' }}" + _ARGUMENTS)
        + ("<arg_key>{{ k }}</arg_key>{{ '\n' }}<arg_value>" + _VALUE + "</arg_value>{{ '\n' }}")
        + "{% endfor %}</tool_call>{% endfor %}"
    ),
    "strings marked": _turns(
        ("<calls>{{ '\n' }}" + _ALL + '<invoke name="{{ f.name }}">{{ "\n" }}' + _ARGUMENTS)
        + """<parameter name="{{ k }}" string="{{ 'true' if v is string else 'false' }}">"""
        + (_VALUE + '</parameter>{{ "\n" }}{% endfor %}</invoke>{{ "\n" }}{% endfor %}</calls>')
    ),
    "bare keys": _turns(
        (_ALL + "<|tool_call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments | dictsort %}{{ k }}:")
        + """{{ '<|"|>' ~ v ~ '<|"|>' if v is string else v }}{% if not loop.last %},{% endif %}{% endfor %}"""
        + "{{ '}' }}<tool_call|>{% endfor %}"
    ),
    "keys without breaks": _turns(  # GLM-4.7, Laguna
        (_ALL + "<tool_call>{{ f.name }}" + _ARGUMENTS + "<arg_key>{{ k }}</arg_key><arg_value>" + _VALUE)
        + "</arg_value>{% endfor %}</tool_call>{% endfor %}"
    ),
    "mark at the end": _turns(  # Hy3
        ("<tool_calls:x>{{ '\n' }}" + _ALL + "<tool_call:x>{{ f.name }}<tool_sep:x>{{ '\n' }}" + _ARGUMENTS)
        + ("<arg_key:x>{{ k }}</arg_key:x>{{ '\n' }}<arg_value:x>" + _VALUE + "</arg_value:x>{{ '\n' }}{% endfor %}")
        + "</tool_call:x>{{ '\n' }}{% endfor %}</tool_calls:x><｜x_eos:y｜>"
    ),
    "numbered, with types": _turns(  # Kimi K3
        ("<|close|>response<|sep|><|open|>tools<|sep|>" + _ALL + '<|open|>call tool="{{ f.name }}" index="')
        + ('{{ loop.index }}"<|sep|>' + _ARGUMENTS + '<|open|>argument key="{{ k }}" type="')
        + ("{{ 'string' if v is string else 'number' }}\"<|sep|>" + _VALUE + "<|close|>argument<|sep|>{% endfor %}")
        + "<|close|>call<|sep|>{% endfor %}<|close|>tools<|sep|>"
    ),
    "list in tags": _turns(  # Hunyuan A13B, Jamba
        ("<tool_calls>[" + _ALL + '{"name": "{{ f.name }}", "arguments": ' + _JSON)
        + "}{% if not loop.last %}, {% endif %}{% endfor %}]</tool_calls>"
    ),
    "lines in tags": _turns(  # MiniMax M1
        ("<tool_calls>{{ '\n' }}" + _ALL + '{"name": "{{ f.name }}", "arguments": ' + _JSON)
        + '}{{ "\n" }}{% endfor %}</tool_calls>'
    ),
    "name as key": _turns(  # Apertus
        ("<|tools_prefix|>[" + _ALL + '{"{{ f.name }}": ' + _JSON)
        + "}{% if not loop.last %}, {% endif %}{% endfor %}]<|tools_suffix|>"
    ),
    "own message": _turns(  # GigaChat 3
        "{% set f = m.tool_calls[0].function %}<|message_sep|>{{ '\n\n' }}function call<|role_sep|>{{ '\n' }}"
        '{"name": "{{ f.name }}", "arguments": ' + _JSON + "}"
    ),
    "Python in marks": _turns(  # LFM2.5
        "<|tool_call_start|>[" + _PYTHON + "{% if not loop.last %}, {% endif %}{% endfor %}]<|tool_call_end|>"
    ),
    "Python on lines": _turns(  # OLMo 3
        "<function_calls>" + _PYTHON + "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}</function_calls>"
    ),
    "Python alone": _turns("[" + _PYTHON + "{% if not loop.last %}, {% endif %}{% endfor %}]"),  # Llama 4
    "escaped strings": _turns(  # FunctionGemma
        (_ALL + "<start_function_call>call:{{ f.name }}{{ '{' }}{% for k, v in f.arguments | dictsort %}{{ k }}:")
        + """{{ '<escape>' ~ v ~ '<escape>' if v is string else v }}{% if not loop.last %},{% endif %}{% endfor %}"""
        + "{{ '}' }}<end_function_call>{% endfor %}"
    ),
    "no tools": _turns("<tool_call>{{ m.tool_calls }}</tool_call>", tools=""),
    "no calls": _turns(""),
    "no calls, hinted": _turns("", tools="{% if tools %}Use <|tool_call|> of {{ tools | tojson }}{% endif %}"),
    "not understood": _turns(_ALL + "call {{ f.name }} with {{ f.arguments.values() | join(' and ') }}{% endfor %}"),
    "harmony": _turns(
        (_ALL + " to=functions.{{ f.name }}<|channel|>commentary json<|message|>" + _JSON + "<|call|>{% endfor %}"),
        turn="<|start|>{{ m.role }}{% if not m.tool_calls %}<|channel|>final<|message|>{{ m.content }}{% endif %}",
        turn_end="<|end|>",
        end="{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ),
    "recipients": _turns(
        _ALL + ">>>{{ f.name }}\n{{ '' + f.arguments }}{% endfor %}",
        turn="<|im_start|>{{ m.role }}\n{% if m.role != 'assistant' %}{{ m.content }}"
        "{% elif m.content %}>>>all\n{{ m.content }}{% endif %}",
        end="{% if add_generation_prompt %}<|im_start|>assistant\n>>>{% endif %}",
    ),
    "addressed": _turns(  # Muse Glimmer
        _ALL
        + "{% if not loop.first %}<|eom|><|start|>assistant{% endif %} to={{ f.name }}<|message|>"
        + '<atem:function_calls>\n<atem:invoke name="{{ f.name }}">\n'
        + _ARGUMENTS
        + '<atem:parameter name="{{ k }}">'
        + _VALUE
        + "</atem:parameter>\n{% endfor %}</atem:invoke>\n</atem:function_calls>{% endfor %}",
        turn="<|start|>{{ m.role }}{% if not m.tool_calls %}{% if m.role == 'assistant' %} to=user{% endif %}"
        "<|message|>{{ m.content }}{% endif %}",
        turn_end="<|eot|>",
        end="{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ),
    "ids alone": _turns(
        "<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>{{ c.id }}"
        "<|tool_call_argument_begin|>{{ c.function.arguments }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>"
    ),
}


def template(name: str) -> ChatTemplate:
    return ChatTemplate(TEMPLATES[name], {}, frozenset(), DirectTemplates())
