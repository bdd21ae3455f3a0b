"""From records of prompts and answers to a model that answers, through the scripts as they are called."""

import json
import random
import re
import shlex
import shutil
from pathlib import Path

import torch
from imports import ROOT

from nanogpt.data.sources import files
from nanogpt.data.sources.document import DataSettings

COLOURS = {"sky": "blue", "grass": "green", "coal": "black", "snow": "white"}


def test_a_model_learns_to_answer(project, run_stage, capsys):
    """The small project's model by characters is replaced by one that can write these words."""

    def call(script: str, flags: str) -> str | None:
        return run_stage(script, *shlex.split(flags))

    shutil.rmtree("data/finetune")
    draw = random.Random(0)
    names = [draw.choice(list(COLOURS)) for _ in range(400)]
    records = [{"prompt": f"{name} {i}?", "completion": COLOURS[name]} for i, name in enumerate(names)]
    Path("chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("text.txt").write_text("\n\n".join(f"the {name} is {colour}" for name, colour in COLOURS.items()))
    sizes = {"n_layer: 3": "n_layer: 2", "n_embd: 256": "n_embd: 32", "block_size: 256": "block_size: 64"}
    params = Path("params.yaml").read_text().replace("kind: auto ", "kind: byte ")
    for old, new in sizes.items():
        params = params.replace(f"  {old}", f"  {new}", 1)
    Path("params.yaml").write_text(params)
    for name in ("models", "data/pretrain"):
        shutil.rmtree(name)
    own = "--source files --val-fraction 0.1 --strict"
    assert not call("prepare", f"--role pretrain {own} --path chats.jsonl --field prompt --out data/pretrain")
    own += " --tokenizer data/pretrain/tokenizer --out data/finetune"
    assert not call("prepare", f"--role finetune {own} --path chats.jsonl --format chat")
    assert not call("pretrain", "--max-steps 5 --out models/pretrain --overwrite")
    assert not call("lora_finetune", "--kind full --max-steps 150 --out models/chat")
    capsys.readouterr()
    assert not call("sample", "--checkpoint models/chat --prompt 'sky 1?' --temperature 0")
    assert capsys.readouterr().out.startswith("User: sky 1?\n\nAssistant: blue\n")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, tok = (kind.from_pretrained("models/chat") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tok.apply_chat_template(
        [{"role": "user", "content": "coal 7?"}], add_generation_prompt=True, return_tensors="pt"
    )
    with torch.no_grad():
        written = theirs.generate(ids["input_ids"], max_new_tokens=10, do_sample=False)
    assert tok.decode(written[0], skip_special_tokens=True).endswith("Assistant: black")
    # an adapter takes the template along
    assert not call("lora_finetune", "--max-steps 2 --r 2 --out models/lora")
    assert not call("merge", "")
    assert "chat_template" in Path("models/merged/tokenizer_config.json").read_text()


def test_the_example_in_the_docs_makes_conversations(inside):
    page = (ROOT / "docs" / "fine-tuning.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    stories = ["Tom ran. He fell. He got up. ", "One sentence alone."]
    Path("stories.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    exec(code, {})
    settings = DataSettings("files", None, 0.1, "chats.jsonl", "*", "text", "chat")
    found = list(files.load(settings, files.FilesSettings(strict=True, shard_mb=256)).texts())
    assert found == ["User: Tom ran.\n\nAssistant: He fell. He got up."]
