#!/usr/bin/env bash
# A figure named "step" makes Lightning's MLflow logger lose all figures, without an exception, if it logs asynchronously.
#
# Guess: Lightning documents that a logged "step" replaces the x axis. MLflow's logger shows the figures at that step, as
# TensorBoard's does; or it raises.
# Seen: Lightning passes the number as the float that its results are. MLflow's protocol wants an integer: with
# `synchronous=False` the thread that sends prints an error, training succeeds, and nothing reaches the server but the
# run's status. Without the "step" all figures arrive. NeMo 2.7.3 logs such a "step" with each training loss.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.4.0 mlflow-skinny==3.17.2 torch==2.13.0 numpy==1.26.4
cd "$work"
cat >figures.py <<'PY'
import json
import logging
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import mlflow
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger

logging.disable(logging.CRITICAL)
received = []


class Server(BaseHTTPRequestHandler):  # what the client asks of MLflow's server, by its REST interface
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path.endswith("log-batch"):
            received.extend(figure["key"] for figure in body["metrics"])
        info = {"run_id": "r", "run_uuid": "r", "experiment_id": "1", "status": "RUNNING", "lifecycle_stage": "active"}
        answer = {"run": {"info": info, "data": {}}, "run_info": info, "experiment": {"experiment_id": "1", "name": "e"}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_PATCH = do_POST
    log_message = lambda *_: None


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch):
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        if sys.argv[1] == "step":
            self.log("step", float(self.global_step + 1))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
Thread(target=server.serve_forever, daemon=True).start()
logger = MLFlowLogger("e", tracking_uri=f"http://127.0.0.1:{server.server_port}", synchronous=False)
quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
trainer = Trainer(accelerator="cpu", max_steps=3, log_every_n_steps=1, logger=logger, **quiet)
trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(3, 2)))
mlflow.flush_async_logging()
print(received.count("loss"), "of", trainer.global_step, "losses")
PY
seen="$(for kind in none step; do venv/bin/python -W ignore figures.py "$kind" 2>errors | grep losses; done)"
printf '%s\n' "$seen"
[[ $seen == $'3 of 3 losses\n0 of 3 losses' ]] || { tail -n 3 errors >&2; exit 1; }
# seen 2026-11-30: lightning 2.4.0, mlflow-skinny 3.17.2, torch 2.13.0: 3 of 3 losses, with a step 0 of 3 losses
