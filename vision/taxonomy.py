"""Labels: what an item is made of.

Labels are global and ordered; a new taxonomy supersedes an old one, which is never edited.

Where an item goes (its stream) is local law and lives in a rule book, not here. A label never comes
from the name of a folder: a dataset reader maps folder names to labels through an explicit map.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vision.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Material:
    """One label of a taxonomy.

    Attributes:
        id: position in the taxonomy, from 0.
        label: stable lower-case key, used in files, events and rule books.
        name: English name for people.
        low_code: closest code of the EU List of Waste, chapter 20 (separately collected municipal
            fractions). Source: Commission Decision 2000/532/EC, annex, as amended by 2014/955/EU.
        hazard: True if an item of this label must never enter a compactor.
    """

    id: int
    label: str
    name: str
    low_code: str
    hazard: bool = False


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """An ordered, immutable set of labels."""

    id: str
    materials: tuple[Material, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels in order."""
        return tuple(m.label for m in self.materials)

    def material(self, label: str) -> Material:
        """Return the material with this label.

        Raises:
            KeyError: the label is not part of this taxonomy.
        """
        for material in self.materials:
            if material.label == label:
                return material
        raise KeyError(label)

    def ordered(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return the distinct labels in taxonomy order.

        That is the logit order of a model that knows just these labels.

        Raises:
            DatasetError: a label is not part of this taxonomy.
        """
        wanted = set(labels)
        if unknown := sorted(wanted - set(self.labels)):
            raise DatasetError(
                f"labels not in taxonomy {self.id}: {', '.join(unknown)}; known: "
                f"{', '.join(self.labels)}"
            )
        return tuple(label for label in self.labels if label in wanted)


MATERIALS_1 = Taxonomy(
    "materials-1",
    (
        Material(0, "cardboard", "Cardboard", "20 01 01"),
        Material(1, "glass", "Glass", "20 01 02"),
        Material(2, "metal", "Metal", "20 01 40"),
        Material(3, "paper", "Paper", "20 01 01"),
        Material(4, "plastic", "Plastic", "20 01 39"),
        Material(5, "trash", "Residual trash", "20 03 01"),
        Material(6, "organic", "Organic", "20 01 08"),
        Material(7, "textile", "Textile", "20 01 11"),
        Material(8, "e_waste", "E-waste", "20 01 36"),
        Material(9, "hazardous", "Batteries, aerosols, chemicals", "20 01 33*", hazard=True),
    ),
)

TAXONOMIES = {MATERIALS_1.id: MATERIALS_1}
