"""Linear-quadratic models: continuous states, and everything in closed form (theory.md section 15).

A second kind of model beside tables, with the same files as `finite/`. The functions of `tb` take
either kind; what is of this kind alone is here:

- `Tangent`: the derivative of the tables along one direction of theta
- `Response`: the follower's answer
- `Evaluation`: what it is worth to the leader
- `Sensitivities`: the derivative of J in each table entry
- `GaussianPolicy`: what the follower does, gain and covariance
- `Trajectories`: what `tb.sample_trajectories` makes of it
- `StateLaws`: means and covariances of the state, step by step
- `state_laws`: these under the follower's answer
"""

from tabular_bilevel._base.display import display_all
from tabular_bilevel.lq.follower import GaussianPolicy, Response
from tabular_bilevel.lq.leader import Evaluation, state_laws
from tabular_bilevel.lq.model import Tangent
from tabular_bilevel.lq.rewards import StateLaws
from tabular_bilevel.lq.sensitivities import Sensitivities
from tabular_bilevel.lq.trajectories import Trajectories

__all__ = [
    "Evaluation",
    "GaussianPolicy",
    "Response",
    "Sensitivities",
    "StateLaws",
    "Tangent",
    "Trajectories",
    "state_laws",
]

display_all(globals())
