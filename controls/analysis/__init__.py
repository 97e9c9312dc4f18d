"""What a change of a policy means: is the new one narrower, what is different, and what would it say of a call?

compare   wider or narrower, with a counterexample in words (specs/policy.md §8); needs the extra `analysis`
diff      field by field
simulate  one call, and every rule that was looked at
"""

from controls.analysis.compare import Comparison, compare
from controls.analysis.diff import Change, diff
from controls.analysis.simulate import Simulation, simulate

__all__ = ["Change", "Comparison", "Simulation", "compare", "diff", "simulate"]
