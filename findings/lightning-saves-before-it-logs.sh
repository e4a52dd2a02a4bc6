#!/usr/bin/env bash
# Lightning saves the checkpoint of a step before loggers get the figures of that step.
#
# Guess: a ModelCheckpoint that saves every step saves step N once N's loss is logged, as the step is over then. So if a
# job is killed after a save and another one resumes from it, the curve of both has each step.
# Seen: callbacks run first. When the checkpoint of N steps is written, loggers have N - 1 of them; a job that is killed
# before the next line leaves a gap of one step, or of `log_every_n_steps`, in TensorBoard's curve.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf -- "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.4.0 torch==2.13.0 numpy==1.26.4
cd "$work"
cat >order.py <<'PY'
import logging

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

logging.disable(logging.CRITICAL)


class Losses(Logger):
    name, version = "losses", 0

    def __init__(self):
        super().__init__()
        self.logged = 0

    def log_metrics(self, metrics, step=None):
        self.logged += "loss" in metrics

    def log_hyperparams(self, *arguments, **others):
        pass


class AtSave(Callback):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        print(f"a checkpoint of {checkpoint['global_step']} steps, {trainer.logger.logged} logged")


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch):
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


saves = ModelCheckpoint("saved", every_n_train_steps=1, save_top_k=-1)
quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
trainer = Trainer(
    accelerator="cpu", max_steps=3, log_every_n_steps=1, logger=Losses(), callbacks=[AtSave(), saves], **quiet
)
trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(3, 2)))
print(f"after the run, {trainer.logger.logged} logged")
PY
seen="$(venv/bin/python -W ignore order.py 2>errors)" || { tail -n 3 errors >&2; exit 1; }
printf '%s\n' "$seen"
wanted="a checkpoint of 1 steps, 0 logged
a checkpoint of 2 steps, 1 logged
a checkpoint of 3 steps, 2 logged
after the run, 3 logged"
[[ $seen == "$wanted" ]]
# seen 2026-11-30: lightning 2.4.0, torch 2.13.0, the four lines above
