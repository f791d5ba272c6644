"""Ground truth as data: test vectors with proven answers, for implementations in any language.

To use them:

- `load_vectors`: all of a folder
- `load_vector`: one
- `Vector`: its tables, their derivatives and its answer
- `check_implementation`: is a function right on them?
- `ImplementationReport`: what was found, and which mistake it looks like
- `outcome`: the same of one vector
- `Outcome`: what was found on it
- `load_answers`: answers that were computed elsewhere
- `Answers`: these, to be checked
- `NOTES`: what each flag aims at
- `StoredProblem`: a vector as a problem
- `reference_gradient`: the right answer in float64

To make them:

- `write_vectors`: a folder of vectors
- `Plan`: what it is made from
- `Encoding`: how a file is written
- `NPZ`: as a zip archive of arrays
- `JSON`: as text
- `FAMILIES`: what they are drawn from, by name
- `Family`: one of these
- `Instance`: what is drawn
- `check_vectors`: are the files what they should be?
- `VectorCheck`: what was found of one
"""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.problems.zoo import Family, Instance
from tabular_bilevel.vectors.flags import NOTES
from tabular_bilevel.vectors.load_vectors import Vector, load_vector, load_vectors
from tabular_bilevel.vectors.making import FAMILIES
from tabular_bilevel.vectors.stored import StoredProblem, reference_gradient
from tabular_bilevel.vectors.verifying import (
    Answers,
    ImplementationReport,
    Outcome,
    VectorCheck,
    check_implementation,
    check_vectors,
    load_answers,
    outcome,
)
from tabular_bilevel.vectors.writing import JSON, NPZ, Encoding, Plan, write_vectors

__all__ = [
    "FAMILIES", "JSON", "NOTES", "NPZ", "Answers", "Encoding", "Family", "ImplementationReport",
    "Instance", "Outcome", "Plan", "StoredProblem", "Vector", "VectorCheck",
    "check_implementation", "check_vectors", "load_answers", "load_vector", "load_vectors",
    "outcome", "reference_gradient", "write_vectors",
]  # fmt: skip

display_all(globals())
