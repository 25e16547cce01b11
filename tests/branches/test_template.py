"""Chat templates of several families, and what is wrong with others, found by trying them out."""

from collections.abc import Callable
from copy import deepcopy

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from wdl.branches.template import Template, probe, render
from wdl.errors import UserError

USER = {"role": "user", "content": "1+1?"}
SYSTEM = {"role": "system", "content": "Digits only."}
THOUGHTFUL = {"role": "assistant", "content": "<think>\none\n</think>\n\n2"}

CHATML = (
    "{%- for m in messages %}{{'<|im_start|>'+m.role+'\n'+m.content+'<|im_end|>\n'}}{%- endfor %}"
)
CHATML_PROMPT = "{%- if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{%- endif %}"
THINKING = (
    CHATML + "{%- if add_generation_prompt %}{{'<|im_start|>assistant\n<think>\n'}}{%- endif %}"
)
# what counts of Qwen3's own: the thoughts of earlier turns go, the last answer always has one
QWEN3 = """\
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] if message.role == 'user' and not ns.found %}
    {%- set ns.last = messages|length - loop.index %}{%- set ns.found = true %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- else %}
        {%- set content = message.content %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- content.lstrip('\n') + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
GEMMA = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}
"""
LLAMA3 = """\
{%- for message in messages %}
    {%- set header = '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' %}
    {{- (bos_token if loop.first else '') + header + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}{%- endif %}
{%- endfor %}
"""
DEEPSEEK_R1 = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<|User|>' + message.content }}
    {%- elif message.role == 'system' %}{{- message.content }}
    {%- else %}
        {{- '<|Assistant|>' + message.content.split('</think>')[-1] + '<|end_of_sentence|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{%- endif %}
"""
GPT_OSS = """\
{%- for message in messages %}
    {%- set channel = '<|channel|>final' if message.role == 'assistant' else '' %}
    {{- '<|start|>' + message.role + channel + '<|message|>' + message.content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""


@pytest.fixture
def make(tokenizer: PreTrainedTokenizerBase) -> Callable[..., PreTrainedTokenizerBase]:
    """A function that gives the tiny tokenizer a template, and tokens without a flag."""

    def make(template: str | None, *tokens: str) -> PreTrainedTokenizerBase:
        changed = deepcopy(tokenizer)
        changed.chat_template = template
        changed.bos_token = "<|endoftext|>"
        changed.add_tokens(list(tokens))
        return changed

    return make


@pytest.mark.parametrize(
    ("template", "end", "opened"),
    [
        (CHATML + CHATML_PROMPT, "<|im_end|>", ""),
        (QWEN3, "<|im_end|>", ""),
        (THINKING, "<|im_end|>", "<think>"),
        (GEMMA, "<end_of_turn>", ""),
        (LLAMA3, "<|eot_id|>", ""),
        (MISTRAL, "<|im_end|>", ""),  # eos
        (DEEPSEEK_R1, "<|end_of_sentence|>", "<think>"),
        (THINKING.replace("<think>\n", "[THINK]"), "<|im_end|>", "[THINK]"),
        (THINKING.replace("<think>", "<seed:think>"), "<|im_end|>", "<seed:think>"),
        (THINKING.replace("<think>\n", "<think>\n\n</think>\n\n"), "<|im_end|>", ""),
    ],
)
def test_families(
    template: str, end: str, opened: str, make: Callable[..., PreTrainedTokenizerBase]
) -> None:
    tokenizer = make(template, end)
    # a token that is not flagged special ends turns too, if it is the template's
    assert (end in tokenizer.all_special_tokens) == (end == "<|im_end|>")
    assert probe(tokenizer) == Template(tokenizer.get_vocab()[end], opened)


def test_earlier_thoughts_are_the_business_of_the_template(
    make: Callable[..., PreTrainedTokenizerBase],
) -> None:
    text = render(make(QWEN3), [USER, THOUGHTFUL, {"role": "user", "content": "Sure?"}])
    assert text.endswith(
        "assistant\n2<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (None, "no chat template"),
        (CHATML, "answers come after"),
        (GPT_OSS, r"answers come after .*<\|channel\|>final<\|message\|>"),
        (CHATML + "{%- if add_generation_prompt %}{{'### Reply:'}}{%- endif %}", "### Reply"),
        ("{%- for m in messages %}{{ m.content }}{%- endfr %}", "broken in line 1 .*endfr"),
        ("{{ messages[0].content + messages[0].nothing }}", "refuses a conversation of user"),
        ("{{ 'Hello' }}", "leaves out what user says"),
        ("{{ messages[0].content }}", "answers come after"),
        ("{{ messages|length // 0 }}", "refuses a conversation"),
    ],
)
def test_templates_that_cannot_be_used(
    template: str, fault: str, make: Callable[..., PreTrainedTokenizerBase]
) -> None:
    with pytest.raises(UserError, match=fault) as error:
        probe(make(template))
    assert len(error.value.lines()) == 1


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (GEMMA, r"refuses a conversation of system, user \(System role not supported\)"),
        (LLAMA3.replace("messages %}", "messages if message.role != 'system' %}"), "leaves out"),
    ],
)
def test_a_system_message_is_not_dropped(
    template: str, fault: str, make: Callable[..., PreTrainedTokenizerBase]
) -> None:
    with pytest.raises(UserError, match=fault):
        render(make(template), [SYSTEM, USER])


def test_what_a_tool_says_may_be_escaped(make: Callable[..., PreTrainedTokenizerBase]) -> None:
    template = CHATML.replace("m.content", "(m.content|tojson if m.role == 'tool' else m.content)")
    said = {"role": "tool", "content": '{"a":\n"é"}'}
    assert r'"{\"a\":\n\"é\"}"' in render(make(template), [USER, said])


def test_a_model_with_fewer_rows(tokenizer: PreTrainedTokenizerBase) -> None:
    assert probe(tokenizer, vocabulary=len(tokenizer)).opened == ""
    with pytest.raises(UserError, match=r"'<\|im_end\|>' is token 258, but the model has 258 rows"):
        probe(tokenizer, vocabulary=258)


def test_no_vocabulary() -> None:
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(UserError, match="holds no tokenizer"):
        probe(empty)


def test_text_that_does_not_come_back(tokenizer: PreTrainedTokenizerBase) -> None:
    lower = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    lower.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match=r"makes 'wdl: .* of 'Wdl: "):
        probe(PreTrainedTokenizerFast(tokenizer_object=lower))
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="neither learn nor write"):
        probe(PreTrainedTokenizerFast(tokenizer_object=words))


def test_slow_tokenizers_work() -> None:
    slow = ByT5Tokenizer(chat_template=LLAMA3.replace("<|eot_id|>", "</s>"), bos_token="</s>")
    assert not slow.is_fast
    assert probe(slow, vocabulary=384).end_token == slow.eos_token_id
