"""Downloading published weights, from a local server with the hub's protocol."""

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
    """A server with the weights of one network: its address, and their state dict."""
    torch.manual_seed(0)
    state_dict = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(state_dict, path)
    content = path.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            exists = "tf_efficientnet_lite0" in self.path and self.path.endswith("/model.safetensors")
            self.send_response(200 if exists else 404)
            self.send_header("X-Repo-Commit", 40 * "a")
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content) if exists else 0))
            self.end_headers()
            if exists and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", state_dict
    server.shutdown()


def environment(address, folder):
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, "HF_ENDPOINT": address, "HF_HOME": str(folder)}


def test_fetched_weights_are_the_hub_s(hub, tmp_path):
    address, state_dict = hub
    output = tmp_path / "lite0.safetensors"
    options = ("--backbone", "efficientnet_lite0", "--output", output)
    run_module("carpose.network.weights", *options, env=environment(address, tmp_path / "home"))
    fetched = read_weights(output)
    assert set(fetched) == set(state_dict)
    assert all(torch.equal(fetched[name], value) for name, value in state_dict.items())
