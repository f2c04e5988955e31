"""Attacks: changes of an image's pixels, small but chosen to mislead one detector.

What is measured is how a detector holds against these attacks alone. A stronger one, or one that
was made for the detector, may do more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.run import Run
from tfdetect.models.inference import predict_views

_SMALLEST = 1e-30  # probability before a logarithm; its logit still has a gradient
_STEP = 2.5  # steps together are so many times the strength (Madry et al.)
_SQUARE = 0.8  # area of the first squares, as a fraction of the image
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries

Images = tuple[np.ndarray, ...]  # a detector's views, uint8 [B, crops, H, W, 3] each


@dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        text: what the strength means.
        unit: what the budget is a number of.
    """

    text: str
    unit: str


KINDS = {
    "pgd": Kind("largest change of a color (white box, PGD)", "steps"),
    "square": Kind("largest change of a color (black box, Square Attack)", "queries"),
}


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        kind: "pgd", which knows the detector and follows its gradient, or "square", which sees
            P(fake) alone.
        levels: largest change of each color of each pixel, in the 255 levels of 8 bits.
        budget: number of gradient steps, or of queries.
    """

    kind: str
    levels: int
    budget: int

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.levels}/255"


def parse_attacks(kinds: str, strengths: str, steps: int, queries: int) -> list[Attack]:
    """Return each attack at each strength, once.

    Args:
        kinds: names of attacks, for example "pgd,square".
        strengths: for example "2/255,4/255".
        steps: the steps of pgd.
        queries: the number of queries of square.

    Raises:
        UserError: an unknown attack, or a strength that 8 bits do not have.
    """
    found = []
    for kind in (part.strip() for part in kinds.split(",")):
        if kind not in KINDS:
            raise unknown("attack", kind, KINDS)
        for text in strengths.split(","):
            try:
                levels = 255 * Fraction(text.strip())
            except (ValueError, ZeroDivisionError):
                levels = Fraction(0)
            if not 1 <= levels <= 255 or levels.denominator != 1:
                raise UserError(
                    "--strength takes whole numbers of the 255 levels of a color, for example "
                    f"2/255,4/255. Received: {text!r}."
                )
            found.append(Attack(kind, int(levels), steps if kind == "pgd" else queries))
    return list(dict.fromkeys(found))


class Attacker:
    """Attacks one detector: raises P(fake) of authentic images and lowers it of fakes.

    Args:
        run: says how images are viewed.
        detector: the run's model.
    """

    def __init__(self, run: Run, detector: keras.Model):
        @tf.function(reduce_retracing=True, autograph=False)
        def loss(views: tuple[tf.Tensor, ...], toward: tf.Tensor) -> tf.Tensor:
            table = predict_views(detector, views, run.info.flips)
            logs = [tf.math.log(tf.maximum(p, _SMALLEST)) for p in
                    (tf.reduce_sum(table[:, 1:], 1), table[:, 0])]  # fmt: skip
            return toward * (logs[0] - logs[1])

        @tf.function(reduce_retracing=True, autograph=False)
        def loss_and_slopes(views: tuple[tf.Tensor, ...], toward: tf.Tensor) -> tuple:
            with tf.GradientTape() as tape:
                tape.watch(views)
                losses = loss(views, toward)
            return losses, tape.gradient(losses, views, unconnected_gradients="zero")

        self._loss, self._loss_and_slopes = loss, loss_and_slopes

    def loss(self, images: Images, fake: np.ndarray) -> np.ndarray:
        """Return what the attacks raise, [B]: the logit of P(fake), of fakes with the other sign.

        Args:
            images: the detector's views, 0..255.
            fake: bool [B].
        """
        return self._loss(_floats(images), _toward(fake)).numpy()

    def __call__(
        self, attack: Attack, images: Images, fake: np.ndarray, numbers: np.ndarray
    ) -> Images:
        """Return the attacked images: of all that were tried, those that mislead most.

        Args:
            attack: the attack.
            images: the detector's views, uint8 [B, crops, H, W, 3] each.
            fake: whether an image is a fake, bool [B].
            numbers: the numbers of the images, int [B]; an image's random choices follow from its
                own.
        """
        draws = [np.random.default_rng([attack.levels, int(number)]) for number in numbers]
        best, losses = [np.array(image) for image in images], self.loss(images, fake)
        search = self._pgd if attack.kind == "pgd" else self._square
        for tried, reached in search(attack, images, best, fake, draws):
            better = reached > losses
            losses = np.where(better, reached, losses)
            for kept, other in zip(best, tried):
                kept[better] = other[better]
        return tuple(best)

    def _pgd(
        self, attack: Attack, images: Images, best: list[np.ndarray], fake: np.ndarray,
        draws: list[np.random.Generator],
    ) -> Iterator[tuple[Images, np.ndarray]]:  # fmt: skip
        """Yield what projected gradient descent tries, and its losses (Madry et al., ICLR 2018).

        It begins at a random point of the ball. Slopes are those at the image in 8 bits.
        """
        ends = [(np.maximum(i - float(attack.levels), 0), np.minimum(i + float(attack.levels), 255))
                for i in images]  # fmt: skip
        points = [np.stack([draw.uniform(a, b) for draw, a, b in zip(draws, low, high)])
                  for low, high in ends]  # fmt: skip
        step = _STEP * attack.levels / attack.budget
        for _ in range(attack.budget):
            tried = _rounded(points)
            losses, slopes = self._loss_and_slopes(_floats(tried), _toward(fake))
            yield tried, losses.numpy()
            points = [np.clip(point + step * np.sign(slope.numpy()), low, high)
                      for point, slope, (low, high) in zip(points, slopes, ends)]  # fmt: skip
        tried = _rounded(points)
        yield tried, self.loss(tried, fake)

    def _square(
        self, attack: Attack, images: Images, best: list[np.ndarray], fake: np.ndarray,
        draws: list[np.random.Generator],
    ) -> Iterator[tuple[Images, np.ndarray]]:  # fmt: skip
        """Yield what the Square Attack tries, and its losses (Andriushchenko et al., ECCV 2020).

        Colored stripes first, then one square in the best image so far, of a side that shrinks.
        """
        for query in range(attack.budget):
            halved = sum(10_000 * query >= limit * attack.budget for limit in _HALVED)
            tried = []
            for start, kept in zip(images, best):
                height, width = start.shape[2:4]
                side = round((_SQUARE / 2**halved * height * width) ** 0.5)
                side = min(max(side, 1), height, width)
                changed = kept.copy()
                for number, draw in enumerate(draws):
                    top, left = draw.integers((height - side + 1, width - side + 1))
                    rows, columns = slice(top, top + side), slice(left, left + side)
                    signs = draw.choice((-attack.levels, attack.levels), (1, 1, 3))
                    if not query:
                        rows = columns = slice(None)
                        signs = draw.choice((-attack.levels, attack.levels), (1, width, 3))
                    part = start[number, :, rows, columns].astype(int) + signs
                    changed[number, :, rows, columns] = np.clip(part, 0, 255)
                tried.append(changed)
            yield tuple(tried), self.loss(tuple(tried), fake)


def _floats(images: Images) -> tuple[tf.Tensor, ...]:
    return tuple(tf.constant(image, tf.float32) for image in images)


def _toward(fake: np.ndarray) -> tf.Tensor:
    """Return the sign of the change of the logit of P(fake) that misleads."""
    return tf.constant(np.where(fake, -1.0, 1.0), tf.float32)


def _rounded(points: list[np.ndarray]) -> Images:
    return tuple(np.round(point).astype(np.uint8) for point in points)
