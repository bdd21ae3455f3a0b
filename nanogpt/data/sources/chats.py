"""Conversations of records: with the fields `prompt` and `completion`, or with `messages`."""

from collections.abc import Iterator
from pathlib import Path

from nanogpt.data.sources.records import BadRecord, find_surrogate, read_objects
from nanogpt.data.tokens.chat import ANSWER, NAMES, render_prompt
from nanogpt.runtime.errors import shorten

SHAPES = 'a record has "prompt" and "completion", or "messages": [{"role": "user", "content": …}, …]'


def read_chats(path: Path) -> Iterator[str | BadRecord]:
    """Yield the conversations of a file, each up to one of its answers (see `conversations`), in their order.

    Raises UserError for damage and for a .txt file.
    """
    for record in read_objects(path):
        if isinstance(record, BadRecord):
            yield record
        else:
            yield from conversations(*record)


def conversations(where: str, record: dict) -> Iterator[str | BadRecord]:
    """Yield a conversation of a record for each answer in it: all before the answer, and the answer.

    So every answer is learned once, and ends at the end of a document. A record that is none is one BadRecord.
    """
    messages = record.get("messages")
    if messages is None and record.get("prompt") is not None:
        messages = [{"role": "user", "content": record["prompt"]}]
        messages.append({"role": "assistant", "content": record.get("completion")})
    if fault := _fault(messages):
        yield BadRecord(fault, f"{where}: {fault} ({shorten(repr(record), 60)}); {SHAPES}")
        return
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            yield f"{render_prompt(messages[:i])} {message['content'].strip()}"


def _fault(messages: object) -> str:
    """What is wrong with a record's messages, "" for nothing."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "no conversation"
    roles = [message.get("role") for message in messages]
    if not all(isinstance(role, str) and role in NAMES for role in roles):
        return "a role that is not user, assistant or system"
    if "assistant" not in roles[1:] or roles[0] == "assistant":
        return "no answer to a prompt"
    contents = [message.get("content") for message in messages]
    if not all(isinstance(content, str) and content.strip() for content in contents):
        return "a message without text"
    if any(find_surrogate(content) is not None for content in contents):
        return "half a surrogate pair"
    if any(f"\n\n{ANSWER}" in content for content in contents):
        return f"a message with a paragraph that begins with {ANSWER}"
    return ""
