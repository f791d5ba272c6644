"""Estimators of each kind that others write; each returns the exact gradient of one problem."""

import functools

import numpy as np

import tabular_bilevel as tb

PROBLEM = tb.problems.layered()
THETA = np.array([0.1, -0.2, 0.3, 0.1])
EXACT = tb.hypergradient(PROBLEM, THETA).gradient


def counted(memory):
    return {"calls": memory.get("calls", np.zeros(())) + 1.0}


def of_problem(problem, theta, rng):
    return EXACT


def of_problem_with_memory(problem, theta, rng, memory):
    return EXACT, counted(memory)


def of_view(view, rng):
    return EXACT.tolist()


def of_view_with_memory(view, rng, memory):
    return EXACT, counted(memory)


def of_batch(view, batch):
    return np.tile(EXACT, (len(batch.lengths), 1))


def of_batch_with_memory(view, batch, memory):
    return of_batch(view, batch), counted(memory)


def of_batch_at_once(view, batch):
    return EXACT


def scaled(view, batch, *, scale):
    return scale * of_batch(view, batch)


of_a_part = functools.partial(scaled, scale=1.0)
batches = tb.BatchEstimator(of_batch, tb.Episodes(7))
batches_with_memory = tb.BatchEstimator(of_batch_with_memory, tb.Episodes(7))
samples = tb.SamplingEstimator(of_view)
samples_with_memory = tb.SamplingEstimator(of_view_with_memory)


class Called:
    def __call__(self, problem, theta, *, rng):
        return EXACT


class WithTarget(Called):
    def target(self, problem, theta):
        return EXACT


class WithMemory:
    def __call__(self, problem, theta, *, rng, memory):
        return tb.Estimate(EXACT, memory=counted(memory))


class PassingOn:
    """What wraps another, and gives it whatever it is given."""

    def __call__(self, problem, theta, **named):
        return WithMemory()(problem, theta, memory=named.pop("memory", {}), **named)


class OfView:
    def __call__(self, view, rng):
        return EXACT


class OfBatch:
    def __call__(self, view, batch):
        return of_batch(view, batch)


class OfExperience:
    interaction = tb.Interaction(tb.Episodes(3))

    def estimate(self, experience):
        return EXACT


called, with_target, with_memory = Called(), WithTarget(), WithMemory()
passing_on, of_view_object, of_batch_object = PassingOn(), OfView(), OfBatch()
of_experience, of_a_method = OfExperience(), Called().__call__

package = tb.ExactGradient()
sampled = tb.BoltzmannCovariance(tb.Interaction(tb.Episodes(20)))
control = tb.controls(n_trajectories=20)["direct term dropped"]

#: By name: those that draw their own data, and those that can be given trajectories.
DRAWING = (
    "of_problem", "of_problem_with_memory", "of_view", "of_view_with_memory", "samples",
    "samples_with_memory", "called", "with_target", "with_memory", "passing_on", "of_view_object",
    "of_a_method", "package",
)  # fmt: skip
GIVEN = (
    "of_batch", "of_batch_with_memory", "of_batch_at_once", "of_a_part", "batches",
    "batches_with_memory", "of_batch_object", "of_experience", "sampled", "control",
)  # fmt: skip
REMEMBERING = (
    "of_problem_with_memory", "of_view_with_memory", "of_batch_with_memory", "batches_with_memory",
    "samples_with_memory", "with_memory", "passing_on",
)  # fmt: skip
NOISY = ("sampled", "control")

number = 3.0
nothing = None


def backwards(batch, view):
    return EXACT


def open_ended(*given):
    return EXACT


def with_one_more(view, batch, scale):
    return EXACT


def with_one_less(view):
    return EXACT


def misnamed(problem, theta, generator):
    return EXACT


class OfNothing:
    def __call__(self):
        return EXACT


of_nothing = OfNothing()

FORMS = r"not \(problem, theta, rng\), \(view, rng\) or \(view, batch\); one more, memory, is"
#: What is no estimator, by name, and what is said of it.
WRONG = {
    "number": "is 3.0, which cannot be called",
    "nothing": "is None, which cannot be called",
    "backwards": rf"has the parameters \(batch, view\), {FORMS}",
    "open_ended": rf"has the parameters \(given\), {FORMS}",
    "with_one_more": rf"has the parameters \(view, batch, scale\), {FORMS}",
    "with_one_less": rf"has the parameters \(view\), {FORMS}",
    "misnamed": rf"has the parameters \(problem, theta, generator\), {FORMS}",
    "of_nothing": rf"has the parameters \(\), {FORMS}",
}


def raising(problem, theta, rng):
    raise KeyError("no such state")


def raising_in_a_batch(view, batch):
    raise KeyError("no such state")
