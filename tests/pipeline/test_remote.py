"""Results shared through a DVC remote, S3 (moto's, on the loopback address), between real clones."""

import hashlib
import http.client
from collections.abc import Callable

import pytest
from clone import Clone, stages_run

pytestmark = pytest.mark.slow

# In place of the user's own access to AWS; no proxy is asked, and no address but that of the test's server.
ACCESS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none",
    "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
}  # fmt: skip

BINS = [f"data/{corpus}/{split}.bin" for corpus in ("pretrain", "finetune") for split in ("train", "val")]
TOKENIZER = "data/pretrain/tokenizer/tokenizer.json"
WEIGHTS = ["models/pretrain/model.safetensors", "models/lora/adapter_model.safetensors"]
WEIGHTS += ["models/merged/model.safetensors"]
RESULTS = [*BINS, TOKENIZER, *WEIGHTS, "metrics/samples.md"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("origin"))
    made.env = {name: value for name, value in made.env.items() if not name.startswith("AWS_")} | ACCESS
    made.dvc("repro", "sample")
    made.commit("results")
    return made


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", "/bucket")
    assert connection.getresponse().status == 200
    connection.close()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def fresh(origin, endpoint, tmp_path_factory) -> Callable[[], Clone]:
    """Pushes the origin's results to a remote and makes `git clone`s, which know it and have nothing of it yet."""

    def make() -> Clone:
        made = origin.git_clone(tmp_path_factory.mktemp("fresh"))
        made.dvc("remote", "modify", "--local", "s3", "endpointurl", endpoint)
        assert not any((made.folder / result).exists() for result in [".dvc/cache", *RESULTS])
        return made

    origin.dvc("remote", "add", "--default", "s3", "s3://bucket/nanogpt")
    origin.dvc("remote", "modify", "--local", "s3", "endpointurl", endpoint)
    assert "pushed" in origin.dvc("push").stdout
    origin.commit("remote")
    return make


def test_a_pulled_clone_has_the_same_results_and_nothing_to_run(origin, fresh):
    clone = fresh()
    clone.dvc("pull", "--with-deps", "sample")  # of what no stage made here there is nothing to pull
    assert "Data and pipelines are up to date." in clone.dvc("repro", "sample").stdout
    for name in RESULTS:
        assert digest(clone, name, "sha256") == digest(origin, name, "sha256"), name
    assert clone.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "pulled", "targets", "rerun", "fetched"),
    [
        # It compares all models on both corpora: only the samples that it replaces stay where they are.
        pytest.param(
            {"sample.temperature": 0.5}, [], ["sample"], ["check", "sample"], RESULTS[:-1], id="temperature"
        ),
        # With --allow-missing alone, DVC fetches of data/pretrain only the tokenizer, and takes the folder for changed.
        pytest.param(
            {"data.finetune.num_samples": 300}, ["data/pretrain"], ["prepare@finetune", "pretrain"],
            ["check", "prepare@finetune"], [*BINS[:2], TOKENIZER], id="text",
        ),
    ],
)  # fmt: skip
def test_a_fresh_clone_runs_what_a_setting_touches_and_fetches_what_that_needs(
    origin, fresh, change, pulled, targets, rerun, fetched
):
    clone = fresh()
    clone.set(**change)
    for name in pulled:
        clone.dvc("pull", name)
    assert stages_run(clone.dvc("repro", "--pull", "--allow-missing", *targets)) == rerun
    assert [name for name in RESULTS if is_cached(clone, digest(origin, name, "md5"))] == fetched


def digest(clone: Clone, name: str, algorithm: str) -> str:
    with (clone.folder / name).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def is_cached(clone: Clone, md5: str) -> bool:
    return (clone.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).exists()
