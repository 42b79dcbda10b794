"""Fetching published weights, from a hub of this machine's own that speaks the real one's protocol."""

import http.server
import os
import threading

import pytest
import torch
from safetensors.torch import save_file

from models.pretrained import read_weights
from tests.helpers import REPOSITORY, run_module

import timm  # isort: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A server with the weights of one network; its address, and the weights."""
    torch.manual_seed(0)
    weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(weights, path)
    content = path.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = "tf_efficientnet_lite0" in self.path and self.path.endswith("/model.safetensors")
            self.send_response(200 if known else 404)
            self.send_header("X-Repo-Commit", 40 * "a")
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content) if known else 0))
            self.end_headers()
            if known and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", weights
    server.shutdown()


def environment(address, folder):
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": address, "HF_HOME": str(folder)}


def test_fetched_weights_are_the_hub_s(hub, tmp_path):
    address, weights = hub
    output = tmp_path / "lite0.safetensors"
    options = ("--backbone", "efficientnet_lite0", "--output", output)
    run_module("carpose.network.weights", *options, env=environment(address, tmp_path / "home"))
    fetched = read_weights(output)
    assert set(fetched) == set(weights)
    assert all(torch.equal(fetched[name], value) for name, value in weights.items())
