"""The sections of `on_gpu.py` that measure speed: wall time on a device, this library beside models
written by hand.

Rounds of the variants are interleaved, A B C ... A B C ..., and the speed of a variant is its
median ratio to hand-written eager PyTorch with fused Adam, which reads no loss before a round
ends. The data lie on the device, and every variant draws its own order of them and gathers its
minibatches.
"""

import cProfile
import dataclasses
import inspect
import io
import math
import pstats
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peers import BATCH_SIZE, WORKLOADS, Workload
from peers.hand_written import HandWritten
from torch import Tensor, nn

from ppl_vae import VAEConfig, build, log_likelihood
from ppl_vae.evaluation import importance
from ppl_vae.handlers.modes import local_parameters
from ppl_vae.networks import decoder_network, encoder_network
from ppl_vae.training import fit
from ppl_vae.training.loop import train_epoch
from ppl_vae.training.run import Run
from ppl_vae.training.settings import Settings
from ppl_vae.training.tiers import CapturedStep

Train = Callable[[int], int]
ROUNDS, ROWS = 5, 20_000
CONV = Workload(784, (128,), 20, "relu", False)


class HandWrittenConv(nn.Module):
    """The networks of network="conv" as they are, under a bound written by hand."""

    def __init__(self) -> None:
        super().__init__()
        shape = (28, 28)
        self.body, size = encoder_network("conv", shape, (128,), "relu", "fan_in", {})
        self.heads = nn.Linear(size, 40)
        self.decoder = decoder_network("conv", 20, 1, shape, (128,), "relu", "fan_in", {})

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.heads(self.body(x)).chunk(2, -1)
        logits = self.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], x, reduction="none")
        return (losses.flatten(1).sum(-1) + kl).mean()


def synchronised(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def by_hand(module: nn.Module, x: Tensor, how: str, dynamic: bool) -> Train:
    """Hand-written training: "eager", "compiled" (the loss) or "captured" (the whole step as a CUDA
    graph).
    """
    device = x.device
    module.to(device)
    optimizer = torch.optim.Adam(
        module.parameters(), 1e-3, fused=True, capturable=how == "captured"
    )
    loss_of = torch.compile(module, mode="reduce-overhead") if how == "compiled" else module
    total = torch.zeros((), device=device)

    def step(batch: Tensor) -> None:
        loss = loss_of(torch.bernoulli(batch) if dynamic else batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    if how == "captured":
        step = captured(step, x[:BATCH_SIZE].clone())

    def train(steps: int) -> int:
        for i in range(steps):
            start = i * BATCH_SIZE % len(x)
            order = torch.randperm(len(x), device=device) if start == 0 else order  # noqa: F821
            step(x[order[start : start + BATCH_SIZE]])
        assert math.isfinite(total.item())
        return steps

    return train


def captured(step: Callable[[Tensor], None], batch: Tensor) -> Callable[[Tensor], None]:
    """A step as a CUDA graph over a batch that is copied in."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step(batch)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(batch)

    def replayed(x: Tensor) -> None:
        batch.copy_(x)
        graph.replay()

    return replayed


def run_of(x: Tensor, config: VAEConfig, device: str, tier: str, **how: Any) -> Run:
    """A run of this library that has made its step."""
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    chosen = {**defaults, "batch_size": BATCH_SIZE, "epochs": 10**6, "compile": tier, **how}
    names = [field.name for field in dataclasses.fields(Settings)]
    run = Run(
        build(config, num_data=len(x), seed=0).to(device),
        x,
        None,
        Settings(**{name: chosen[name] for name in names}),
        None,
    )
    run.start(resume=False)
    return run


def ours(x: Tensor, config: VAEConfig, device: str, tier: str, **how: Any) -> Train:
    """The epochs of `fit` at one tier."""
    run = run_of(x, config, device, tier, **how)
    bar = run.bar(progress=False)

    def train(steps: int) -> int:
        done = 0
        while done < steps:
            with local_parameters():
                train_epoch(run, bar)
            done += run.num_batches
        return done

    return train


def variants(name: str, device: str, tiny: bool) -> tuple[dict[str, Callable[[], Train]], Tensor]:
    """What is compared under a workload's name, each made when it is called."""
    dynamic, conv = name == "dynamic", name == "conv"
    workload = CONV if conv else WORKLOADS["mnist" if dynamic else name]
    shape = (28, 28) if conv else (workload.data_size,)
    x = torch.rand(400 if tiny else ROWS, *shape)
    likelihood = "normal_pixelwise" if workload.normal else "bernoulli"
    fields: dict[str, Any] = {"network": "conv"} if conv else {}
    config = VAEConfig(
        shape,
        workload.latent_size,
        workload.hidden_sizes,
        workload.activation,
        likelihood=likelihood,
        **fields,
    )
    how = {"binarization": "dynamic" if dynamic else "none"}
    there = x.to(device)

    def module() -> nn.Module:
        return HandWrittenConv() if conv else HandWritten(workload)

    made: dict[str, Callable[[], Train]] = {}
    for kind in ("eager", "captured", "compiled"):
        if (kind == "captured" and device == "cpu") or (kind == "compiled" and tiny):
            continue
        made[f"hand, {kind}"] = partial(lambda k: by_hand(module(), there, k, dynamic), kind)
    for tier in ("off", "record") if tiny else ("off", "record", "inductor"):
        made[f"ours, {tier}"] = partial(ours, x, config, device, tier, **how)
    return made, x


def speeds(report: Any, device: str, tiny: bool, name: str) -> None:
    """Steps a second of each variant, and the ratios."""
    made, _ = variants(name, device, tiny)
    trains: dict[str, Train] = {}

    def prepare(variant: str) -> None:
        train = made[variant]()
        train(20)
        synchronised(device)
        trains[variant] = train

    for variant in made:
        case = f"prepared: {variant}"
        if case in report.good:  # by a process that the device then failed in another variant
            prepare(variant)
        report.case(case, partial(prepare, variant))
    report.turn()
    seconds: dict[str, list[float]] = {variant: [] for variant in trains}
    wanted = 4 if tiny else 200
    for _ in range(1 if tiny else ROUNDS):
        for variant, train in trains.items():
            synchronised(device)
            start = time.perf_counter()
            done = train(wanted)
            synchronised(device)
            seconds[variant].append((time.perf_counter() - start) / done)
    base = seconds["hand, eager"]
    for variant, own in seconds.items():
        ratios = [b / s for b, s in zip(base, own, strict=True)]
        report.say(
            variant,
            "measured",
            speed=round(statistics.median(ratios), 3),
            lowest=round(min(ratios), 3),
            highest=round(max(ratios), 3),
            microseconds=round(1e6 * statistics.median(own), 1),
        )


# ---- log p(x)


def _mnist() -> VAEConfig:
    return VAEConfig((28, 28), 20, (500,), "tanh")


def likelihood(report: Any, device: str, tiny: bool) -> None:
    """Images a second of log p(x) at 5000 draws, for tiers and sizes of a block, and beside the
    decoder's matrix products alone.
    """
    draws = 100 if tiny else 5000
    vae = build(_mnist(), seed=0).to(device)
    x = torch.rand(20 if tiny else 4000, 28, 28).round()

    def products(rows: int, tf32: bool) -> dict[str, Any]:
        z = torch.randn(rows, 20, device=device)
        first, second = (torch.randn(*s, device=device) for s in ((20, 500), (500, 784)))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        count = max(1, len(x) * draws // rows)
        for repeats in (1, count):
            synchronised(device)
            start = time.perf_counter()
            for _ in range(repeats):
                (z @ first) @ second
            synchronised(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        seconds = time.perf_counter() - start
        return {"verdict": "measured", "images_a_second": round(rows * count / draws / seconds, 1)}

    def rate(tier: str, rows: int | None, share: float) -> dict[str, Any]:
        kept = importance.decoder_rows
        importance.decoder_rows = kept if rows is None else (lambda vae: rows)
        try:
            few = x[: max(10, (rows or 50_000) // draws)]
            how: dict[str, Any] = {"compile": tier, "prior_share": share, "seed": 0}
            log_likelihood(vae, few, draws, **how)
            synchronised(device)
            start = time.perf_counter()
            log_likelihood(vae, x, draws, **how)
            seconds = time.perf_counter() - start
        finally:
            importance.decoder_rows = kept
        return {"verdict": "measured", "images_a_second": round(len(x) / seconds, 1)}

    if not tiny:
        compiled = partial(log_likelihood, vae, x[:20], draws, compile="inductor", prior_share=0.0)
        report.case("prepared: inductor", lambda: {"mean": compiled().mean})
    report.turn()
    for rows in (1000,) if tiny else (50_000, 250_000):
        report.case(f"products, {rows} rows", partial(products, rows, False))
        report.case(f"products in TF32, {rows} rows", partial(products, rows, True))
    for tier in ("off", "record"):
        report.case(f"{tier}", partial(rate, tier, None, 0.0))
    report.case("record, a tenth of the prior", partial(rate, "record", None, 0.1))
    if not tiny:
        report.case("inductor", partial(rate, "inductor", None, 0.0))
        for rows in (5_000, 20_000, 200_000, 1_000_000):
            report.case(f"record, blocks of {rows}", partial(rate, "record", rows, 0.0))
    report.case("hand-written", partial(_by_hand, vae, x, draws, device))
    report.case("to_inference_data, 100 data", partial(_draws, vae, x[:100], tiny))


def _by_hand(vae: Any, x: Tensor, draws: int, device: str) -> dict[str, Any]:
    """log p(x) as one writes it by hand with the same two networks, ten images at a time."""
    posterior, network = vae.guide.posterior, vae.model.decoder.network
    there = x.to(device)

    @torch.no_grad()
    def block(rows: Tensor) -> Tensor:
        mean, log_scale = posterior.heads(posterior.encoder(rows)).chunk(2, -1)
        noise = torch.randn(draws, *mean.shape, device=device)
        z = mean + log_scale.exp() * noise
        logits = network(z).squeeze(-3)
        log_p = -F.binary_cross_entropy_with_logits(
            logits, rows.expand_as(logits), reduction="none"
        ).sum((-1, -2))
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_scale.sum(-1)
        return (log_p + log_ratio).logsumexp(0)

    block(there[:10])
    synchronised(device)
    start = time.perf_counter()
    torch.cat([block(rows) for rows in there.split(10)]).cpu()
    rate = len(x) / (time.perf_counter() - start)
    return {"verdict": "measured", "images_a_second": round(rate, 1)}


def _draws(vae: Any, x: Tensor, tiny: bool) -> dict[str, Any]:
    from ppl_vae import to_inference_data

    start = time.perf_counter()
    to_inference_data(vae, x, 50 if tiny else 1000)
    seconds = time.perf_counter() - start
    return {"verdict": "measured", "milliseconds_a_datum": round(1e3 * seconds / len(x), 2)}


# ---- long runs


def throughput(report: Any, device: str, tiny: bool) -> None:
    """Hours that 1e8 samples of MNIST take, from a stretch of whole epochs."""
    x = (255 * torch.rand(600 if tiny else 60_000, 28, 28)).to(torch.uint8)
    stretch = 0.2 if tiny else 4.0

    def hours(tier: str, batch_size: int, binarization: str) -> dict[str, Any]:
        how = {"batch_size": batch_size, "binarization": binarization}
        run = run_of(x, _mnist(), device, tier, **how)
        bar = run.bar(progress=False)
        with local_parameters():
            train_epoch(run, bar)
            synchronised(device)
            start, epochs = time.perf_counter(), 0
            while time.perf_counter() - start < stretch:
                train_epoch(run, bar)
                epochs += 1
            synchronised(device)
        seconds = time.perf_counter() - start
        samples = epochs * len(x)
        return {
            "verdict": "measured",
            "tier": run.step.tier,
            "samples_a_second": round(samples / seconds),
            "hours_for_1e8": round(1e8 / samples * seconds / 3600, 3),
            "microseconds_a_step": round(1e6 * seconds / (epochs * run.num_batches), 1),
        }

    report.turn()
    for batch_size in (100, 1000):
        for binarization in ("none", "dynamic"):
            name = f"record, M = {batch_size}, {binarization}"
            report.case(name, partial(hours, "record", batch_size, binarization))
    if not tiny:
        report.case("inductor, M = 100, none", partial(hours, "inductor", 100, "none"))
    if device != "cpu":
        report.say("memory", "measured", gib=round(torch.cuda.max_memory_allocated() / 2**30, 2))


# ---- where a step's time goes


def steps_apart(report: Any, device: str, tiny: bool) -> None:
    """The parts of a recorded step of MNIST size, each timed alone, in microseconds."""
    x = torch.rand(400 if tiny else ROWS, 784)
    config = VAEConfig((784,), 20, (500,), "tanh")
    count = 10 if tiny else 300

    def timed(action: Callable[[], Any]) -> float:
        for repeats in (3, count):
            synchronised(device)
            start = time.perf_counter()
            for _ in range(repeats):
                action()
            synchronised(device)
        return round(1e6 * (time.perf_counter() - start) / count, 1)

    def parts(tier: str) -> dict[str, Any]:
        run = run_of(x, config, device, tier)
        values = run.schedules.values([0.0])
        index = torch.arange(BATCH_SIZE)
        with local_parameters():
            batch = run.batch(index)
            for _ in range(4):
                report_of_step = run.step(iter([batch]), values, [1e-3])
            found: dict[str, Any] = {
                "batch": timed(lambda: run.batch(index)),
                "step": timed(lambda: run.step(iter([batch]), values, [1e-3])),
                "values": timed(lambda: run.schedules.values([0.0])),
                "rates": timed(lambda: run.schedules.learning_rates([0.0])),
                "randperm": timed(lambda: torch.randperm(len(x))) if device == "cpu" else 0,
                "row": timed(lambda: report_of_step[0] * 100),
            }
            if isinstance(run.step, CapturedStep):
                found["replay"] = timed(run.step._graph.replay)  # type: ignore[union-attr]
            bar = run.bar(progress=False)
            train_epoch(run, bar)
            synchronised(device)
            start = time.perf_counter()
            train_epoch(run, bar)
            synchronised(device)
            found["loop"] = round(1e6 * (time.perf_counter() - start) / run.num_batches, 1)
        return {"verdict": "measured", **found}

    report.turn()
    for tier in ("record",) if tiny else ("record", "inductor"):
        report.case(tier, partial(parts, tier))


def profile(report: Any, device: str, tiny: bool) -> None:
    """An epoch of MNIST size, recorded, under Python's profiler and under that of torch."""
    x = torch.rand(400 if tiny else ROWS, 784)
    config = VAEConfig((784,), 20, (500,), "tanh")

    def python() -> dict[str, Any]:
        train = ours(x, config, device, "record")
        train(200)
        watched = cProfile.Profile()
        watched.runcall(train, 1)
        text = io.StringIO()
        pstats.Stats(watched, stream=text).strip_dirs().sort_stats("tottime").print_stats(30)
        print(text.getvalue(), flush=True)
        return {}

    def kernels(tier: str) -> dict[str, Any]:
        from torch.profiler import ProfilerActivity

        train = ours(x[:2000], config, device, tier)
        train(40)
        kinds = [ProfilerActivity.CPU]
        kinds += [] if device == "cpu" else [ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as watched:
            train(1)
        averages = watched.key_averages()
        key = "self_cpu_time_total" if device == "cpu" else "self_cuda_time_total"
        print(averages.table(sort_by=key, row_limit=25, max_name_column_width=60), flush=True)
        table = averages.table(sort_by="self_cpu_time_total", row_limit=25)
        print(table, flush=True)
        return {}

    report.turn()
    report.case("python", python)
    for tier in ("record",) if tiny else ("record", "inductor"):
        report.case(f"kernels, {tier}", partial(kernels, tier))


SECTIONS: dict[str, Callable[..., None]] = {
    **{name: partial(speeds, name=name) for name in ("mnist", "dynamic", "frey", "toy", "conv")},
    "throughput": throughput,
    "likelihood": likelihood,
    "steps_apart": steps_apart,
    "profile": profile,
}
