"""The learning rate schedule of a run that goes on with other settings than it was saved with."""

from lightning.pytorch import Callback, LightningModule, Trainer

OF_SETTINGS = ("base_lrs", "min_lr", "max_steps", "warmup_steps", "constant_steps", "decay_steps")
"""What NeMo's schedule has from the settings; the rest of it says how far it is."""


class ScheduleOfSettings(Callback):
    """Keeps the schedule that the settings ask for, where loading a checkpoint brings back the one it was saved with.

    Both are the same unless --allow-change let the settings differ; then the next step has the new schedule's rate.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes what the settings ask for, before anything is loaded."""
        self._wanted = [
            {name: getattr(config.scheduler, name) for name in OF_SETTINGS} for config in trainer.lr_scheduler_configs
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts it in the place of what was loaded."""
        for config, wanted in zip(trainer.lr_scheduler_configs, self._wanted, strict=True):
            schedule = config.scheduler
            if all(getattr(schedule, name) == value for name, value in wanted.items()):
                continue
            vars(schedule).update(wanted)
            schedule._get_lr_called_within_step = True  # else it warns that this is not the last rate used
            rates = schedule.get_lr()
            schedule._get_lr_called_within_step = False
            schedule._last_lr = rates
            for group, initial_lr, rate in zip(schedule.optimizer.param_groups, schedule.base_lrs, rates, strict=True):
                group["initial_lr"] = initial_lr
                group["lr"] = rate
