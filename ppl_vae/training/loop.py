"""`fit`: the training loop, from top to bottom.

Knows the order of things and nothing of what a step does inside: `run.py` holds a run's pieces and
state, `step.py` and `recorded.py` give gradients. The global generator is used inside a fork and
left as it was.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import constraints
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from ppl_vae import checks
from ppl_vae.checkpoint import run_lock
from ppl_vae.datasets import Dataset
from ppl_vae.handlers.corruption import Corrupt
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.inputs import Data, Source, check_map_style
from ppl_vae.parts.user_code import recorded_code
from ppl_vae.terminal import deferred_interrupts
from ppl_vae.training.callbacks import Callback, checked_callbacks
from ppl_vae.training.history import History
from ppl_vae.training.minibatches import lost_readers_named
from ppl_vae.training.run import Run
from ppl_vae.training.saving import interval
from ppl_vae.training.schedules import Schedule
from ppl_vae.training.settings import Settings
from ppl_vae.vae import VAE

__all__ = ["fit", "train_epoch"]


def fit(
    vae: VAE,
    data: Data | Dataset,
    *,
    validation: Data | None = None,
    estimator: str | ELBO | type[ELBO] = "B",
    num_particles: int = 1,
    batch_size: int = 100,
    epochs: int = 10,
    kl_weight: float | str | Schedule = 1.0,
    weight_kl_weight: float | str | Schedule = 1.0,
    learning_rate: float | str | Schedule = 1e-3,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    max_gradient_norm: float | None = None,
    parameter_average: float | None = None,
    weight_penalty: float = 0.0,
    binarization: str = "none",
    kl_balance: bool = False,
    corruption: str | Corrupt = "none",
    corruption_level: float | str | Schedule = 0.0,
    early_stopping: int | None = None,
    all_data: bool = False,
    seed: int = 0,
    compile: str = "auto",
    precision: str = "float32",
    device: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | str = 1,
    resume: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    num_workers: int = 0,
) -> History:
    """Train `vae` in place by maximising the evidence lower bound; leaves it in evaluation mode.

    loss = -mean_i[ E_q log p(x_i|z_i) - kl_weight KL(q(z_i|x_i) || p(z_i)) ] + weight_kl_weight
    KL(theta) / N
           + weight_penalty ||parameters||^2 / (2 N), in nats per datum.

    Args:
        vae: what `build` returns; its `num_data` becomes N = len(data).
        data: x, (N, *event_shape), a tensor, an array or a frame of numbers; bytes are grey levels
            under a likelihood of these, and divided by 255 batch by batch. Or a data set of
            torch's, map-style, whose items are x or (x, label): it is read minibatch by minibatch.
            Or a data set of `load_data`, whose parts for training and validation, and whose
            binarization, are then used.
        validation: held-out x, (V, *event_shape); its bound is computed each epoch with the same
            noise every time. Grey pixels are binarised as the data are, but once: the same pixels
            each epoch and in every run.
        estimator: "A" (`SampledELBO`, every term sampled), "B" (`MeanFieldELBO`, closed-form KL
            where there is one), "iwae" (`ImportanceWeightedELBO`), "dreg"
            (`DoublyReparameterizedELBO`) or "renyi:ALPHA"; or any `pyro.infer.ELBO`, such as
            `pyro.infer.Trace_ELBO()`, its class, or "file.py:Name". One of Pyro's own runs eagerly
            and reports its loss alone; held-out data are then judged by A.
        num_particles: L, draws of z a datum, of an estimator given by name.
        batch_size: M, data a step.
        epochs: passes over the data.
        kl_weight: of KL(q(z|x) || p(z)), a number, "linear:start:end:epochs", "stages:1e-3:50:1e-4"
            (1e-3 for 50 epochs, then 1e-4) or a function of the epoch; also "constrained:kl:20" (KL
            <= 20 nats) or "constrained:reconstruction:-90" (E_q log p >= -90).
        weight_kl_weight: of KL(q(theta) || p(theta)), where weights are Bayesian: a number, or a
            schedule or function as of `kl_weight`, without a constraint.
        learning_rate: step size, a number, or a schedule or function as of `kl_weight`, without a
            constraint.
        optimizer: "adam", "adagrad", a reference such as "torch.optim:AdamW", or a class of
            `torch.optim`, or a partial of one, as
            `functools.partial(torch.optim.AdamW, betas=(0.9, 0.99))`; the learning rate is set
            at each step.
        optimizer_options: by name: `betas` and `eps` of "adam", `eps` of "adagrad", or what a class
            of torch takes.
        max_gradient_norm: the gradient is multiplied by min(1, this / its norm), the norm that of
            all parameters together.
        parameter_average: decay d, such as 0.999, of a <- d a + (1 - d) p after each step. Held-out
            data are judged by the averages a, and the run ends with them in the parameters' place.
        weight_penalty: lambda; 1 is the N(0, I) prior of Auto-Encoding Variational Bayes, counted
            once for all data.
        binarization: "dynamic" draws each pixel anew, x ~ Bernoulli(data), every time a datum is
            used.
        kl_balance: while kl_weight is below 1, weigh each layer of a hierarchy by its share of the
            KL.
        corruption: "salt_and_pepper", "normal" or "masking": corrupts what the guide sees of x; or
            a function of x (M, *event_shape) and the level, or "file.py:Name".
        corruption_level: how much of it (`handlers.corruption`), a number or a schedule like
            that of `learning_rate`.
        early_stopping: epochs without a better validation bound after which to stop, at the best
            epoch's parameters.
        all_data: train on the held-out data, too, and hold nothing out.
        seed: fixes data order and noise; the global generator is left as it was.
        compile: "off" (eager Pyro), "record" (recorded graph), "inductor" (compiled graph) or
            "auto" (by the number of steps to run).
        precision: "float32", or "bfloat16" for matrix products alone, faster where the processor
            has them.
        device: "cuda", say: data and VAE are there while training, and the VAE is back where it was
            afterwards.
        checkpoint: the run's folder; every `checkpoint_every`, at the end, and on Ctrl-C, SIGTERM
            or SIGHUP, the run's state is saved there.
        checkpoint_every: a number of epochs, or "5000 steps" or "10 minutes", which also save in
            the middle of an epoch.
        resume: go on from the folder's checkpoint; the result equals, bit for bit, that of a run
            never stopped.
        progress: show a progress bar.
        callbacks: functions f(event), each called before the first step, after each epoch and at
            the end. `event.kind` is "start", "epoch" or "end", `event.row` that epoch's row of
            the history, `event.vae` the VAE. One that returns True after an epoch stops the run,
            which can be resumed. What a callback does to random generators, to the row or to a
            module's mode has no effect. Of several ranks, the first one calls them.
        num_workers: processes that read ahead from a data set of torch's; the run is the same to
            the bit with any number, also where the data set draws random numbers.

    Gradients are enabled inside, whatever the caller's mode is. Returns the history. Raises
    `InputError` for bad values and `FloatingPointError` when the loss or its gradient is not
    finite.
    """
    if isinstance(data, Dataset):
        validation = data.validation if validation is None else validation
        binarization = "dynamic" if data.binarization == "dynamic" else binarization
        data = data.train
    settings = Settings(
        estimator,
        num_particles,
        batch_size,
        epochs,
        kl_weight,
        weight_kl_weight,
        learning_rate,
        optimizer,
        weight_penalty,
        binarization,
        kl_balance,
        corruption,
        corruption_level,
        early_stopping,
        seed,
        compile,
        precision,
        optimizer_options,
        max_gradient_norm,
        parameter_average,
    )
    source = _source(vae, data, binarization)
    held_out = _held_out(vae, validation, binarization, early_stopping)
    if checks.truth("all_data", all_data):
        source, held_out = _joined(source, held_out, early_stopping), None
    checks.integer("num_workers", num_workers, 0)
    folder = None if checkpoint is None else checks.path("checkpoint", checkpoint)
    if checks.truth("resume", resume) and folder is None:
        checks.refuse("resume", True, "checkpoint=, the folder of the run to go on with")
    every = interval(checkpoint_every)
    checks.truth("progress", progress)
    callbacks = checked_callbacks(callbacks)
    vae.num_data = len(source)  # type: ignore[arg-type]
    with contextlib.ExitStack() as held:
        for mode in (torch.inference_mode(False), torch.enable_grad()):
            held.enter_context(mode)
        held.enter_context(lost_readers_named())
        held.enter_context(_on_device(vae, device))
        held.enter_context(torch.random.fork_rng())
        with recorded_code() as code:
            run = Run(vae, source, held_out, settings, folder, num_workers, every)
        vae.code.update(code)
        held.callback(run.data.close)
        if folder and run.ranks.first:
            held.enter_context(run_lock(folder))
        run.start(resume)
        held.callback(run.step.release)
        run.tell(callbacks, "start")
        asked_to_stop = False
        with deferred_interrupts() as interrupted, local_parameters(), run.bar(progress) as bar:
            while run.going_on and not asked_to_stop:
                train_epoch(run, bar, interrupted)
                asked_to_stop = run.tell(callbacks, "epoch")
                if run.save_is_due(run.state.epoch) or asked_to_stop or not run.going_on:
                    run.save()
        history = run.finish()
        if asked_to_stop and run.going_on:  # said here alone, so that a resumed run goes on
            history.stopped = "a callback returned True"
        run.tell(callbacks, "end")
        return history


@contextlib.contextmanager
def _on_device(vae: VAE, device: str | None) -> Iterator[None]:
    """The VAE on `device` inside the block, and back where it was after it."""
    before = next(vae.parameters()).device
    if device is not None:
        checks.moved("device", vae, device)
    try:
        yield
    finally:
        vae.to(before)


def train_epoch(run: Run, bar: tqdm, interrupted: Sequence[bool] = ()) -> None:
    """The rest of one pass over the data, then its row, validation and early stopping."""
    state, began = run.state, time.perf_counter()
    batches = run.minibatches()
    shown = max(1, run.num_batches // 10)
    run.begin_epoch()
    while state.batch < run.num_batches:
        call = batches.next(state.batch, run.step.calls)
        run.take(call)
        if getattr(bar, "desc", ""):  # that the step was being compiled, which its first call did
            bar.set_description("")
        if state.batch // shown > (state.batch - len(call)) // shown:
            bar.set_postfix(run.shown(), refresh=False)
        bar.update(len(call))
        if state.batch < run.num_batches:  # a whole epoch is closed first
            saving = run.save_is_due()
            if interrupted or saving:
                state.seconds, began = _elapsed(state.seconds, began)
            if interrupted:
                run.interrupt()
            if saving:
                run.save()
    run.end_epoch(time.perf_counter() - began)


def _elapsed(seconds: float, began: float) -> tuple[float, float]:
    """(the seconds and those since `began`, the time now)."""
    now = time.perf_counter()
    return seconds + now - began, now


def _checked(vae: VAE, x: Data, subject: str, binarization: str) -> Tensor:
    found = vae.checked(x, subject)
    if binarization == "dynamic":
        checks.inside(subject, found, constraints.unit_interval, "binarization 'dynamic'")
    return found


def _held_out(
    vae: VAE, validation: Data | None, binarization: str, early_stopping: int | None
) -> Tensor | None:
    if validation is not None:
        return _checked(vae, validation, "validation", binarization)
    if early_stopping is not None:
        checks.refuse(
            "early_stopping", early_stopping, "validation data to stop by", "pass validation=..."
        )
    return None


def _joined(data: Source, validation: Tensor | None, early_stopping: int | None) -> Tensor:
    """Training and held-out data, to train on all of them."""
    if validation is None:
        checks.refuse("all_data", True, "held-out data to train on, too", "pass validation=...")
    if early_stopping is not None:
        got = f"early_stopping {early_stopping} with all_data"
        checks.refuse("early_stopping", got, "held-out data to stop by", "leave one of them out")
    if not isinstance(data, Tensor):
        checks.refuse("all_data", f"a {type(data).__name__}", "data in memory", "join them before")
    if data.dtype != validation.dtype:
        checks.refuse("validation", str(validation.dtype), f"the data's type, {data.dtype}")
    return torch.cat([data, validation.to(data.device)])


def _source(vae: VAE, data: Data, binarization: str) -> Source:
    """The data as a run reads them: a tensor, or a data set, whose minibatches are checked as they
    are read.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors[0]
    check_map_style("data", data)
    return data if isinstance(data, TorchDataset) else _checked(vae, data, "data", binarization)
