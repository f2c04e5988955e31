"""Names of the methods of a search, for which hyperopt is not imported."""

from typing import Literal

Algorithm = Literal["tpe", "random", "atpe"]  # that suggests points; see `suggest`
Rule = Literal["median", "halving", "none"]  # that stops trials early; see `pruning`
