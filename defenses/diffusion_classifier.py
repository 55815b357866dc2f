"""The diffusion classifier: the class under which a conditional model denoises an image best, with
the largest errors left out. An image is noised, the network predicts that noise under every class,
and the class with the smallest mean error is the answer. That the largest errors are left out of
the mean is what makes it a defense.

Li, Prabhudesai, Duggal, Brown, Pathak: "Your Diffusion Model is Secretly a Zero-Shot Classifier",
ICCV 2023, arXiv 2303.16203: noise the image, let the network predict that noise under every class,
and take the class with the smallest mean error; timesteps and noise are the same for all classes,
and unlikely classes are dropped in stages. Pan et al. 2024 (arXiv 2311.02373, section 5, table 5):
leave out the share ``p_filter`` of the largest errors. A poisoned model's error is large where a
trigger meets a class that has none, and a trigger is small, so what is left says what the rest of
the image is. ``p_filter`` therefore has to cover the trigger's share of the values.

Where the two codes differ, or we do:

- ``noise_levels``: ``even`` takes Li et al.'s evenly spaced timesteps from T // n // 2 on: the
  levels a DDPM was trained on, each range once, so the default. ``lognormal`` is Pan et al.'s, who
  classify with an EDM model: ln sigma ~ N(-1.2, 1.2^2), sigma = s / A put on the nearest timestep,
  and EDM's weight, which for an error in the noise is 1 + 4 sigma^2 (sigma_data 0.5).
- ``error``: squared errors (``l2``: the training objective, and Pan et al.'s) are the default; Li
  et al. found ``l1`` better on CIFAR-10.
- Trimming is per image, draw and class, so two classes may drop different pixels, as in the code.
  No guidance, as in both.
- **Deviation**: all images share one set of timesteps and noise; both codes draw afresh for each
  image. Rows are then paired, and no row's score depends on its neighbours or on ``batch_size``
  beyond the network's own rounding; but images share the luck of the draw, so intervals over images
  leave that part of the uncertainty to the seeds.
- On text-to-image models the classes are their prompts, as in Li et al., and errors are those of
  latents: the trigger's share of the values is its share of the latents it touches.
- The network runs in the testbed's precision, which decides little: of 96 digits in bfloat16, 1 %
  of the clean and none of the stamped were given another class than in float32.
- A stage of the pruning takes draws evenly spread over those left, so that it ends after exactly as
  many as it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Interval
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.schedule import Schedule
from bench.plugin import Access, Card, ClassifierDefense, Paper, require

LOG_SIGMA_MEAN, LOG_SIGMA_DEVIATION, SIGMA_DATA = -1.2, 1.2, 0.5


@dataclass(frozen=True, kw_only=True)
class DiffusionClassifier(ClassifierDefense):
    """``timesteps``: draws of (timestep, noise) an image and class; 100 as in Pan et al.'s scripts.
    ``keep``: the pruning, stages of (classes that go on, draws by then), e.g. ((5, 10), (2, 30));
    ``None`` for none. ``batch_size``: (image, class) pairs at once.
    """

    card: ClassVar[Card] = Card(
        name="diffusion_classifier",
        summary=(
            "classifies by the class under which the suspected model denoises best, its "
            "largest errors filtered out"
        ),
        paper=Paper(
            title="Your Diffusion Model is Secretly a Zero-Shot Classifier",
            authors="Alexander C. Li, Mihir Prabhudesai, Shivam Duggal, Ellis Brown, Deepak Pathak",
            year=2023,
            arxiv="2303.16203",
            bibtex=(
                "@inproceedings{li2023diffusionclassifier, title={Your Diffusion Model is "
                "Secretly a Zero-Shot Classifier}, "
                "author={Li, Alexander C. and Prabhudesai, Mihir and Duggal, Shivam and Brown, "
                "Ellis and Pathak, Deepak}, "
                "booktitle={ICCV}, year={2023}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        needs=frozenset({"weights"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("p_filter",)

    p_filter: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    timesteps: Annotated[int, Interval(ge=1, le=1000)] = 100
    noise_levels: Literal["even", "lognormal"] = "even"
    error: Literal["l1", "l2"] = "l2"
    keep: tuple[tuple[int, int], ...] | None = None
    batch_size: Annotated[int, Gt(0)] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.keep is None or _is_pruning(self.keep, self.timesteps),
            self,
            "keep",
            "null or stages [classes, draws] with fewer classes (at least 1) and more draws "
            "(under timesteps) each time",
        )

    @torch.no_grad()
    def classify(self, images: Tensor, access: Access) -> Tensor:
        """Minus the mean error of every class, (n, classes) float32 on the CPU; pruned classes
        follow below, best first.

        A pruned class lies under the worst kept one by as much as its error exceeded that one's
        when it was dropped. Raises ``ValueError`` for a generator without classes, or whose
        timesteps are fewer than are to be evenly spaced, or far from a multiple of that.
        """
        generator = access.generator
        if generator.classes is None:
            raise ValueError(f"{self.card.name}: the generator must be class-conditional")
        timesteps, weights = self._levels(generator.schedule, access.rng)
        noise = torch.from_numpy(
            access.rng.standard_normal((self.timesteps, *generator.noise_shape), dtype="float32")
        )
        clean = torch.cat(
            [
                generator.encode(to_unit_range(piece.to(generator.device)))
                for piece in images.split(self.batch_size)
            ]
        )
        labels = torch.arange(generator.classes).repeat(len(images), 1)
        # summed over the draws so far; column j belongs to labels[:, j]
        errors = torch.zeros(labels.shape)
        pruned: list[tuple[Tensor, Tensor]] = []
        left, done = list(range(self.timesteps)), 0
        for classes, until in (*(self.keep or ()), (generator.classes, self.timesteps)):
            if labels.shape[1] == 1:
                break
            stage = _spread(left, until - done)
            for draw in stage:
                pairs = self._errors(clean, labels, int(timesteps[draw]), noise[draw], generator)
                errors += float(weights[draw]) * pairs
                done += 1
                access.progress(done, self.timesteps, "draws")
            left = [draw for draw in left if draw not in stage]
            order = errors.argsort(dim=1, stable=True)
            labels, errors = labels.gather(1, order), errors.gather(1, order)
            behind = (errors[:, classes:] - errors[:, classes - 1 : classes]) / done
            pruned.append((labels[:, classes:], behind))
            labels, errors = labels[:, :classes], errors[:, :classes]
        scores = torch.zeros(len(images), generator.classes).scatter_(1, labels, -errors / done)
        lowest = -errors[:, -1:] / done
        for dropped, behind in reversed(pruned):
            if dropped.shape[1]:
                below = torch.nextafter(lowest, torch.tensor(-torch.inf)) - behind
                scores.scatter_(1, dropped, below)
                lowest = below[:, -1:]
        return scores

    def _levels(
        self, schedule: Schedule, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The timestep and the weight of every draw."""
        count = self.timesteps
        if self.noise_levels == "even":
            require(
                count <= len(schedule), self, "timesteps", f"at most the model's {len(schedule)}"
            )
            require(
                10 * (len(schedule) % count) <= len(schedule),
                self,
                "timesteps",
                f"nearly a divisor of the model's {len(schedule)} for even levels, or the noisiest "
                f"are left out",
            )
            step = len(schedule) // count
            return step // 2 + step * np.arange(count), np.ones(count)
        sigmas = schedule.noise / schedule.signal
        wanted = LOG_SIGMA_MEAN + LOG_SIGMA_DEVIATION * rng.standard_normal(count)
        timesteps = np.abs(np.log(sigmas) - wanted[:, None]).argmin(axis=1)
        return timesteps, 1 + np.square(sigmas[timesteps] / SIGMA_DATA)

    def _errors(
        self, clean: Tensor, labels: Tensor, timestep: int, noise: Tensor, generator: Generator
    ) -> Tensor:
        """The trimmed mean error of every ``clean`` x_0 under each of its ``labels`` (n, k), for
        one draw: (n, k).
        """
        device, schedule = generator.device, generator.schedule
        signal, level = float(schedule.signal[timestep]), float(schedule.noise[timestep])
        noise = noise.to(device)
        rows = torch.arange(len(clean)).repeat_interleave(labels.shape[1])
        errors = []
        for chosen, batch_labels in zip(
            rows.split(self.batch_size), labels.flatten().split(self.batch_size), strict=True
        ):
            x = signal * clean[chosen] + level * noise
            predicted = generator.predict_noise(
                x.contiguous(memory_format=torch.channels_last),
                torch.full((len(x),), timestep, device=device),
                batch_labels.to(device),
            )
            difference = (predicted - noise).flatten(1)
            errors.append(
                _trimmed_mean(
                    difference.abs() if self.error == "l1" else difference.square(), self.p_filter
                ).cpu()
            )
        return torch.cat(errors).reshape(labels.shape)


def _trimmed_mean(values: Tensor, p_filter: float) -> Tensor:
    """The mean of each row's smallest int((1 - p_filter) d) values, at least one: (n, d) ->
    (n,).
    """
    # 1 - 0.9 is a little less than 0.1: without the nudge, a tenth of 10 values would be none.
    count = max(1, int((1 - p_filter) * values.shape[1] + 1e-9))
    if count < values.shape[1]:
        values = values.topk(count, dim=1, largest=False, sorted=False).values
    return values.mean(dim=1)


def _spread(items: list[int], count: int) -> list[int]:
    """``count`` of ``items``, evenly spread over them."""
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def _is_pruning(keep: tuple[tuple[int, int], ...], timesteps: int) -> bool:
    if not all(len(stage) == 2 and 1 <= stage[0] and 1 <= stage[1] < timesteps for stage in keep):
        return False
    return all(
        later[0] < earlier[0] and later[1] > earlier[1]
        for earlier, later in zip(keep, keep[1:], strict=False)
    )
