import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources.document import Corpus, Document
from nanogpt.data.tokens.batches import IGNORED, Replay, Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.chat import render_prompt, split_answer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.runtime.errors import UserError

BYTE = train_tokenizer(TokenizerSettings("byte", 0, "error"), [])
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Who are you? "},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Why?\n\nSay it."},
]


def test_the_template_is_what_transformers_applies(tmp_path):
    BYTE.save(tmp_path / "plain")
    assert "chat_template" not in (tmp_path / "plain" / "tokenizer_config.json").read_text()
    tokenizer = train_tokenizer(TokenizerSettings("byte", 0, "error"), [])
    tokenizer.chat = True
    tokenizer.save(tmp_path / "chat")
    assert [load_tokenizer(tmp_path / name).chat for name in ("plain", "chat")] == [False, True]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "chat")
    ids = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    ours = "System: Be brief.\n\nUser: Who are you?\n\nAssistant: A cat.\n\nUser: Why?\n\nSay it.\n\nAssistant:"
    assert render_prompt(MESSAGES) == ours
    assert ids == [BYTE.eot, *BYTE.encode(ours)]
    answered = theirs.apply_chat_template(MESSAGES[:3], tokenize=False)
    assert split_answer(answered) == (answered.removesuffix(" A cat."), " A cat.")


@pytest.fixture
def folder(tmp_path):
    """Bins of conversations; prompts are of letters below n, answers of those from n on."""
    pairs = [("ab", "xyz"), ("c", "n"), ("defgh", "oooo"), ("a", "z"), ("bb", "pq"), ("aaa", "rr")]
    texts = [f"{render_prompt([{'role': 'user', 'content': prompt}])} {answer}" for prompt, answer in pairs]
    corpus = Corpus("chats", "CC0", lambda skipped: map(Document, texts), chat=True)
    manifest = write_corpus(tmp_path, corpus, BYTE, 0.5)
    assert manifest["splits"]["val"]["documents"] == 3
    return tmp_path


def test_answers_are_learned_and_prompts_are_not(folder):
    data = Bin.open(folder, "train", BYTE)
    learned = BYTE.decode(data.tokens[data.learned & (data.tokens != BYTE.eot)].tolist())
    assert learned == " n z rr"
    assert data.learned[data.tokens == BYTE.eot].all()  # an answer's end too, and what no window has as a target
    T = 40
    x, y = Windows(data, T, 1).batch(0, 1)
    tokens = torch.from_numpy(data.tokens.astype(np.int64))
    (place,) = [i for i in range(len(tokens) - T) if torch.equal(tokens[i : i + T], x[0])]
    kept = y[0] != IGNORED
    assert torch.equal(y[0][kept], tokens[place + 1 : place + T + 1][kept])
    assert torch.equal(kept, torch.from_numpy(data.learned[place + 1 : place + T + 1])) and not kept.all()


def test_conversations_are_read_alone_also_where_windows_are_cut_anywhere(folder):
    chats = Windows(Bin.open(folder, "train", BYTE), 30, 1, whole_documents=False)
    assert chats.document_start == BYTE.eot
    assert Replay(chats, chats, 0.5).document_start == BYTE.eot
    assert (Replay(chats, chats, 0.5).batch(0, 4)[1] == IGNORED).any()


def test_the_answers_of_a_conversation_stay_on_one_side(tmp_path):
    """Those so far are in the prompt of the next, and validation is to be of what training has not seen."""
    texts = []
    for i in range(8):
        turns = [f"User: {i}?\n\nAssistant: {i}!", f"User: {i} more?\n\nAssistant: {i}!!"]
        texts += [turns[0], "\n\n".join(turns)]
    write_corpus(tmp_path, Corpus("chats", "", lambda skipped: map(Document, texts), chat=True), BYTE, 0.25)
    bins = [Bin.open(tmp_path, split, BYTE) for split in ("train", "val")]
    assert [{BYTE.decode(ids)[6] for ids in one.documents()} for one in bins] == [set("123567"), set("04")]


@pytest.mark.parametrize("fault", ["changed", "removed"])
def test_damaged_prompts(folder, fault):
    path = folder / "train-prompts.bin"
    path.write_bytes(b"\1" + path.read_bytes()[1:]) if fault == "changed" else path.unlink()
    with pytest.raises(UserError, match=r"train-prompts\.bin: damaged"):
        Bin.open(folder, "train", BYTE)
