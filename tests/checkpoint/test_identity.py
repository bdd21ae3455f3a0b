import hashlib
import shutil

from nanogpt.checkpoint.identity import model_identity


def test_a_folder_is_its_shape_weights_and_tokens_wherever_it_lies(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_bytes(name.encode())
    parts = [hashlib.sha256(name.encode()).digest() for name in ("config.json", "model.safetensors", "tokenizer.json")]
    assert model_identity(folder) == hashlib.sha256(b"".join(parts)).hexdigest()
    shutil.copytree(folder, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("another card")
    assert model_identity(tmp_path / "moved") == model_identity(folder)
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"other weights")
    assert model_identity(tmp_path / "moved") != model_identity(folder)
    one = hashlib.sha256(hashlib.sha256(b"other weights").digest()).hexdigest()
    assert model_identity(tmp_path / "moved" / "model.safetensors") == one
