"""The training loop: epochs over the data, each evaluated by the validation metric, the best weights kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from fxopt.errors import DataError, FxoptError
from fxopt.ir.alias_analysis import make_functional, written
from fxopt.ir.op_table import find_quantized
from fxopt.ir.placement import place
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.ir.trainable_module import TrainableModule, as_module
from fxopt.ir.transfer import place_module, put, repeatable, take
from fxopt.numerics.compute_device import failure_of, random_state, seeded, set_random_state
from fxopt.passes.train.average import Average
from fxopt.passes.train.checkpoint import Checkpoint
from fxopt.passes.train.layout import use_channels_last
from fxopt.passes.train.objective import Objective
from fxopt.passes.train.optimizer import make_optimizer, make_schedule
from fxopt.passes.train.options import TrainOptions
from fxopt.passes.train.parts import Parts, in_parts
from fxopt.passes.train.processes import Processes
from fxopt.passes.train.validation import Score, Validation
from fxopt.passes.train.zeros import Zeros
from fxopt.support.progress import Advance, progress_bar
from fxopt.workload import Counted, Workload
from fxopt.workload.batching import examples, fixed_batch


def train(program: Program, workload: Workload, how: TrainOptions, objective: Objective, device: str = "cpu") -> None:
    """Train the weights of a program and store those of the epoch that did best in validation, or as the objective says.

    All that is computed on batches is computed on ``device``, as torch spells it. Equal options, data, versions, device and
    numbers of threads and processes give equal weights. Raises DataError without data that fit, and where the loss is not
    finite in the first epoch; PassError for a program that is quantized; ResourceError where not even one example fits into
    the device's memory, and DeviceError for a device that is lost.
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(
            quantized,
            f"{how.name}: the program is quantized, and rounding passes no gradient on; "
            "train before quantize, or with the rounding by train_quantized in its place",
        )
    if not any(t.is_floating_point() for t in program.tensors().values() if isinstance(t, torch.nn.Parameter)):
        program.skip(program.graph.output_node().all_input_nodes[0], "the model has no weights to train")
        return
    where = torch.device(device)
    with seeded(where, how.seed), repeatable(where), torch.enable_grad():
        training = _Training(program, workload, how, objective, where)
        training.run()
    training.store()


class _Training:
    """Everything that changes from step to step, and how it is saved."""

    def __init__(
        self, program: Program, workload: Workload, how: TrainOptions, objective: Objective, device: torch.device
    ) -> None:
        self.program, self.how, self.device = program, how, device
        self.objective = place_module(objective, device)
        self.kwargs = put(program.kwargs, device)
        self.data = workload.need_data(how.name)
        self.processes = Processes(how, device)
        self.size = fixed_batch(program)
        self.parts = Parts(how, device, self.size, self.processes.count)
        per_epoch = self._steps_of_an_epoch()
        if not per_epoch:
            raise DataError(
                f"{how.name}: the workload gives no training batch of {self.size or how.batch_size} examples"
            )
        self.steps = per_epoch * how.epochs
        twin = shared_copy(program)
        place(twin, device)
        make_functional(twin)  # a gradient needs what an in-place op overwrites
        self.module: TrainableModule = as_module(twin, batch_norm=how.batch_norm)
        use_channels_last(twin, self.module)
        self.saving = _copying(twin)
        self.module.watched = objective.watched
        optimizer = make_optimizer([*self.module.parameters(), *objective.parameters()], how)
        self.schedule = make_schedule(optimizer, how, self.steps)
        self.model, self.optimizer = self.processes.setup(self.module, optimizer)
        self.zeros = Zeros(program, self.module.graph_module, how, self.steps)
        self.average = Average(self.module.graph_module, how.ema)
        self.checkpoint = Checkpoint(program, workload, how)
        self.validation = Validation(self.data, self.module, objective, self.kwargs, self.size, how.batch_size)
        self.epoch, self.step, self.waited = 0, 0, 0
        self.best: dict[str, torch.Tensor] | None = None
        self.score: Score = (-float("inf"), -float("inf"))

    def run(self) -> None:
        """All epochs, from where a checkpoint stands."""
        if (saved := self.checkpoint.read()) is not None:
            self._load(saved)
        elif self.how.sparsity is None:
            self._judge()  # where training improves nothing, the weights stay
        with progress_bar(self.how.name, self.steps) as advance, self._device_may_be_lost():
            advance(self.step)
            while self.epoch < self.how.epochs and not self._is_patience_over():
                if not self._train_epoch(advance):
                    return
                self.epoch += 1
                self._judge()
                advance(0, f"{self.how.name}: best {self.data.metric} {self.score[0]:.4f}")
                if self.processes.is_first:
                    self.checkpoint.write(take(self._state()))

    def store(self) -> None:
        """Write the best weights into the program, and say so where these are the old ones."""
        best = take(self.processes.agreed(self.best))
        assert best is not None
        old = {name: tensor.detach() for name, tensor in self.program.tensors().items() if name in best}
        new = {n: t.clone().copy_(best[n]) for n, t in old.items() if not torch.equal(t, best[n])}  # in the old layout
        self.program.set_tensors(new)
        self.parts.report(self.program)

    def _train_epoch(self, advance: Advance) -> bool:
        """One pass over the data; False where the loss is no longer finite, and training ends with the best so far."""
        self.module.train()
        for args, target in self._batches(self.epoch):
            args, target = self.processes.share(args, target)
            loss = self.parts.fit(partial(self._gradients, args, target), examples(args), self._where())
            if loss is not None:
                self._not_finite(loss)
                return False
            if self.how.clip is not None:
                self.processes.clip(self.model, self.optimizer, self.how.clip)
            self.optimizer.step()
            self.schedule.step()
            self.zeros.keep(self.step)
            self.average.update()
            self.step += 1
            advance(1)
        return True

    def _gradients(self, args: tuple[Any, ...], target: Any, parts: int) -> float | None:
        """Compute the gradients of a batch, in so many parts; the loss of a part where that is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        for number, (some, wanted, share) in enumerate(in_parts(args, target, parts), 1):
            with self.saving(), self.processes.gathering(self.model, number == parts):
                loss = self._loss(*put((some, wanted), self.device))
                if not bool(loss.detach().isfinite()):
                    return float(loss.detach())
                self.processes.backward(loss if share == 1 else loss * share, self.objective)
        return None

    @contextlib.contextmanager
    def _device_may_be_lost(self) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            go_on = (
                f"goes on behind epoch {self.epoch}" if self.how.checkpoint else "would go on with checkpoint='folder'"
            )
            raise failure_of(error, f"{self._where()} on {self.device}", f"run this again, which {go_on}") from error

    def _where(self) -> str:
        return f"{self.how.name}: step {self.step + 1} of {self.steps}"

    def _loss(self, args: tuple[Any, ...], target: Any) -> torch.Tensor:
        try:
            loss = self.objective(self.model(*args, **self.kwargs), args, target, self.module)
        except (FxoptError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:
            raise DataError(
                f"{self._where()}: the model or its loss failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise DataError(
                f"{self.how.name}: the loss must be one number that depends on the weights (not detached), got {loss!r}"
            )
        return loss

    def _not_finite(self, loss: float) -> None:
        problem = f"{self.how.name}: the loss is {loss} in step {self.step + 1} of {self.steps}"
        hint = f"take a lower rate than {self.how.rate:g}, or bound the gradient by clip=1.0"
        if not self.epoch or self.best is None:
            raise DataError(f"{problem}, in the first epoch; {hint}")
        output = self.program.graph.output_node().all_input_nodes[0]
        self.program.skip(output, f"{problem}: training stopped, the best weights until then are kept; {hint}")

    def _judge(self) -> None:
        """Let the weights as they are, or their average, compete with the best so far."""
        if self.how.sparsity is not None and not self.zeros.is_done(self.step):
            return
        self.module.eval()
        with self.average.in_place(), torch.no_grad():
            found = self.processes.agreed(self.validation.score())
            self.waited += 1
            if found > self.score or self.objective.keeps_last:
                self.score, self.waited = found, 0
                self.best = {name: t.detach().clone() for name, t in self.module.state_dict().items()}

    def _is_patience_over(self) -> bool:
        return self.how.patience is not None and self.waited >= self.how.patience

    def _batches(self, epoch: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Batches of an epoch, shuffled anew; with a fixed batch size, an incomplete last one is dropped."""
        size = self.size or self.how.batch_size
        for args, target in self.data.batches("train", batch_size=size, seed=self.how.seed * 10_000 + epoch):
            if self.size is None or examples(args) == self.size:
                yield args, target

    def _steps_of_an_epoch(self) -> int:
        size = self.size or self.how.batch_size
        count = self.data.example_count("train") if isinstance(self.data, Counted) else None
        if count is None:
            return sum(1 for _ in self._batches(0))
        return count // size if self.size else -(-count // size)

    def _state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(), "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.last_epoch,
            "zeros": self.zeros.state_dict(), "average": self.average.state_dict(),
            "best": self.best, "score": self.score, "waited": self.waited,
            "epoch": self.epoch, "step": self.step, "parts": self.parts.count, "random": random_state(self.device),
            "processes": self.processes.state_dict(),
        }  # fmt: skip

    def _load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.zeros.load_state_dict(state["zeros"])
        self.average.load_state_dict(state["average"])
        self.processes.load_state_dict(state["processes"])
        self.best, self.score, self.parts.count = state["best"], tuple(state["score"]), state["parts"]
        self.epoch, self.step, self.waited = state["epoch"], state["step"], state["waited"]
        self.schedule.last_epoch = state["schedule"]
        set_random_state(self.device, state["random"])


def _copying(program: Program) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Around a step: keeps copies of what is overwritten, at a price, where there is any such op."""
    if any(written(node) for node in program.graph.nodes):
        return torch.autograd.graph.allow_mutation_on_saved_tensors
    return contextlib.nullcontext
