"""Conversations as plain text: a template that needs no tokens of its own.

    User: Tell me a story.

    Assistant: Once upon a time there was a cat.

What is learned is the last answer, to its end token; what comes before it is context.
"""

from collections.abc import Sequence

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
ANSWER = f"{NAMES['assistant']}:"
# The same for transformers' `apply_chat_template`; the end token stands before every document.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ message.role | capitalize }}: {{ message.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\n" + ANSWER + "' }}{% endif %}"
)


def render_prompt(messages: Sequence[dict[str, str]]) -> str:
    """The text after which the model writes the next answer; messages have `role` (of NAMES) and `content`."""
    return "\n\n".join([*(f"{NAMES[one['role']]}: {one['content'].strip()}" for one in messages), ANSWER])


def split_answer(text: str) -> tuple[str, str]:
    """Divide a conversation into its context and the last answer, which begins with the space after its name.

    Raises ValueError where there is no answer.
    """
    place = text.rindex("\n\n" + ANSWER) + len("\n\n" + ANSWER)
    return text[:place], text[place:]
