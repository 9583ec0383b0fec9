"""Units of claims: how differences and margins are printed, and what the evidence consists of."""

from dataclasses import dataclass

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Unit of a measured quantity. Two quantities with different units never share a margin."""

    name: str
    """Unit of a difference."""
    margin_name: str
    """Unit of a margin, which also names the quantity."""
    factor: float
    """Factor from a stored value to a printed number."""
    decimals: int
    """Decimals of a printed difference."""
    subject: str
    """What is scored."""
    evidence: str
    """What is sampled independently, more of which would decide a claim."""

    def format_difference(self, value: float) -> str:
        """Format a difference without its unit.

        The minus sign is the typographic one, which is as wide as the plus sign.
        """
        return f"{self.factor * value:+.{self.decimals}f}".replace("-", _MINUS)

    def format_margin(self, margin: float) -> str:
        """Format a margin with its unit."""
        return f"{self.factor * margin:g} {self.margin_name}"


ACCURACY = Unit(
    name="points", margin_name="points of accuracy", factor=100, decimals=1, subject="questions",
    evidence="images",
)  # fmt: skip
REPLIES = Unit(
    name="points", margin_name="points of the share of replies", factor=100, decimals=1,
    subject="questions", evidence="images",
)  # fmt: skip
PREFERENCE = Unit(
    name="points", margin_name="points of the net preference", factor=100, decimals=1,
    subject="questions", evidence="images",
)  # fmt: skip
TASK_ACCURACY = Unit(
    name="points", margin_name="points of accuracy", factor=100, decimals=1, subject="tasks",
    evidence="documents",
)  # fmt: skip
BITS_PER_BYTE = Unit(
    name="bits per byte", margin_name="bits per byte", factor=1, decimals=3, subject="texts",
    evidence="documents",
)  # fmt: skip
