"""Labels of subjects (age, sex, diagnosis) as numbers for a network.

A label with more than two different numbers among the training subjects is a number: it is standardised over them.
Any other is a class, also one of two numbers, as 0 and 1. A code of three or more numbers (sites 1, 2, 3) would be
taken for a number: write it as words.

Each label fills `LABEL_WIDTH` numbers: 1 if it is known, then the standardised number, or 1 at the place of its class;
0 elsewhere, and everywhere if it is not known. The width is fixed, so that settings alone say how wide a network is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scansynth.data.cohort import Cohort
from scansynth.data.samples import LABEL_WIDTH
from scansynth.data.text_table import is_unknown
from scansynth.errors import InputError

_MARKS = ("na", "nan", "#n/a", "null", "?", "-", ".")
"""What programs write where nothing is known; taken for a class, it would be one."""


@dataclass(frozen=True)
class Label:
    """One label as the training subjects have it."""

    name: str
    """Column of `participants.tsv`."""
    mean: float = 0.0
    """Of a number, over the training subjects."""
    deviation: float = 1.0
    """Standard deviation of a number, over the training subjects."""
    classes: tuple[str, ...] = ()
    """Of a class, those of training in sorted order; of a number, none."""

    @classmethod
    def of(cls, name: str, values: Sequence[str]) -> "Label":
        """A label from what is known of the training subjects.

        Args:
            name: of the label.
            values: as written in the table, of the subjects where it is known, at least one.

        Raises:
            InputError: if there are texts among more than two numbers, all values are one, the classes are too many,
                or one of them is what programs write for nothing.
        """
        numbers = [number for text in values if (number := _number(text)) is not None]
        if len(set(numbers)) > 2:
            if texts := [text for text in values if _number(text) is None]:
                raise InputError(f"label {name} has numbers and {texts[0]!r}: write a number or n/a in its place")
            return cls(name, float(np.mean(numbers)), float(np.std(numbers)))
        if marks := [text for text in values if text.lower() in _MARKS]:
            raise InputError(f"label {name} is {marks[0]!r} for some: where it is not known, write n/a")
        classes = tuple(sorted(set(values)))
        assert classes, name
        if len(classes) == 1:
            raise InputError(
                f"label {name} is {classes[0]!r} wherever training knows it: it tells nothing, leave it out"
            )
        if len(classes) >= LABEL_WIDTH:
            raise InputError(
                f"label {name} has {len(classes)} classes, more than {LABEL_WIDTH - 1}: leave it out, or merge some"
            )
        return cls(name, classes=classes)

    def encode(self, value: str | None) -> list[float]:
        """One value, or None or n/a where it is not known, as `LABEL_WIDTH` numbers.

        Raises:
            InputError: for a text in place of a number, or a class that training did not have.
        """
        encoded = [0.0] * LABEL_WIDTH
        if value is None or is_unknown(value):
            return encoded
        encoded[0] = 1.0
        if self.classes:
            if value not in self.classes:
                raise InputError(f"label {self.name} {value!r}: training had {', '.join(self.classes)} alone")
            encoded[1 + self.classes.index(value)] = 1.0
            return encoded
        number = _number(value)
        if number is None:
            raise InputError(f"label {self.name} {value!r}: give a number (the mean in training is {self.mean:g})")
        encoded[1] = (number - self.mean) / self.deviation
        return encoded


def encode(values: Mapping[str, str], labels: Sequence[Label]) -> Tensor:
    """Labels of one subject as a network is given them.

    Args:
        values: name of a label → its value as a table writes it; a label that is left out is not known.
        labels: of the run, in its order.

    Returns:
        (D,) float32, D = `LABEL_WIDTH` for each label.

    Raises:
        InputError: for a label that the run does not have, a text in place of a number, or a class that training did
            not have.
    """
    names = [label.name for label in labels]
    if strange := [name for name in values if name not in names]:
        raise InputError(f"label {strange[0]!r}: the run was trained with {', '.join(names) or 'no labels'}")
    encoded = [number for label in labels for number in label.encode(values.get(label.name))]
    return torch.tensor(encoded, dtype=torch.float32)


def fit_labels(cohort: Cohort, names: Sequence[str], contrasts: Sequence[str]) -> tuple[Label, ...]:
    """A run's labels, from the training subjects that have one of its contrasts.

    Args:
        cohort: the prepared cohort.
        names: of the labels.
        contrasts: of the run.

    Raises:
        InputError: if no training subject has such a label, a validation subject does not fit it, or as `Label.of`.
    """
    training = [name for name in cohort.subjects("train") if set(contrasts) & set(cohort.available(name))]
    known = [cohort.labels(subject) for subject in training]
    labels = []
    for name in names:
        values = [own[name] for own in known if name in own]
        if not values:
            there = ", ".join(dict.fromkeys(label for own in known for label in own)) or "none"
            raise InputError(
                f"{cohort.folder}: no training subject has the label {name!r} (there are: {there}): name another, or "
                "add the column to participants.tsv and run `prepare` again"
            )
        try:
            labels.append(Label.of(name, values))
        except InputError as error:
            raise InputError(f"{cohort.folder}: {error}") from None
    for subject in cohort.subjects("val"):  # which are encoded after many steps, and in one process alone
        subject_labels(cohort, subject, labels)
    return tuple(labels)


def subject_labels(cohort: Cohort, subject: str, labels: Sequence[Label]) -> Tensor:
    """Labels of a cohort's subject, (D,) float32, as `encode`.

    Raises:
        InputError: as `encode`, naming the subject.
    """
    known = cohort.labels(subject)
    try:
        return encode({label.name: known[label.name] for label in labels if label.name in known}, labels)
    except InputError as error:
        raise InputError(
            f"{cohort.folder}: {subject}: {error}; correct participants.tsv, or write n/a, and run `prepare` again"
        ) from None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
