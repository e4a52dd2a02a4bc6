"""Apply the learning-rate settings of a resumed run, where they differ from the checkpoint's."""

from lightning.pytorch import Callback, LightningModule, Trainer

OF_SETTINGS = ("base_lrs", "min_lr", "max_steps", "warmup_steps", "constant_steps", "decay_steps")
"""Fields of NeMo's schedule that come from settings; the others are its state."""


class ScheduleOfSettings(Callback):
    """Restore the schedule of the settings after a checkpoint was loaded, which brings its own.

    They differ only if --allow-change permitted it. The next step then has the learning rate of the new schedule.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the schedule of the settings, before a checkpoint is loaded."""
        self._wanted = [
            {name: getattr(config.scheduler, name) for name in OF_SETTINGS} for config in trainer.lr_scheduler_configs
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the loaded schedule where it differs."""
        for config, wanted in zip(trainer.lr_scheduler_configs, self._wanted, strict=True):
            schedule = config.scheduler
            if all(getattr(schedule, name) == value for name, value in wanted.items()):
                continue
            vars(schedule).update(wanted)
            schedule._get_lr_called_within_step = True  # otherwise get_lr warns that it is called outside of step()
            rates = schedule.get_lr()
            schedule._get_lr_called_within_step = False
            schedule._last_lr = rates
            for group, initial_lr, rate in zip(schedule.optimizer.param_groups, schedule.base_lrs, rates, strict=True):
                group["initial_lr"] = initial_lr
                group["lr"] = rate
