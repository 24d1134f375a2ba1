"""The chat template of conversations: the model's own, or the one that `data.chat_template` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rankray.config.sections import PLAIN_TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token or '' }}"
    "{% if tools %}{{ raise_exception('the plain chat template knows no tools') }}{% endif %}"
    "{% for turn in messages %}"
    "{% if turn.tool_calls %}{{ raise_exception('the plain chat template knows no tool calls') }}{% endif %}"
    "{{ '' if loop.first else '\\n\\n' }}{{ turn.role }}:{{ '\\n' }}{{ turn.content }}"
    "{{ eos_token if turn.role == 'assistant' else '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n' if messages else '' }}assistant:{{ '\\n' }}{% endif %}"
)
"""What `data.chat_template: plain` stands for: each turn below its role, the assistant's ended by the EOS token.
It needs no tokens of its own, so it suits a model that has never seen a conversation."""


def use_template(tokenizer: PreTrainedTokenizerBase, given: str | None) -> None:
    """Let a tokenizer render conversations with a template, which is then saved with it; None leaves it its own.

    Args:
        tokenizer: the model's.
        given: `data.chat_template`.
    """
    if given is not None:
        tokenizer.chat_template = PLAIN if given == PLAIN_TEMPLATE else given
