"""Ground truth as data: test vectors with proven answers, for implementations in any language."""

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
    "FAMILIES",
    "JSON",
    "NOTES",
    "NPZ",
    "Answers",
    "Encoding",
    "Family",
    "ImplementationReport",
    "Instance",
    "Outcome",
    "Plan",
    "StoredProblem",
    "Vector",
    "VectorCheck",
    "check_implementation",
    "check_vectors",
    "load_answers",
    "load_vector",
    "load_vectors",
    "outcome",
    "reference_gradient",
    "write_vectors",
]

display_all(globals())
