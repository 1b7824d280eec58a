"""The conformance kit: the contract of passes and backends, checked for yours.

In a test of your package::

    from fxopt.testing import check_pass

    def test_contract():
        check_pass(drop_double_neg)

:func:`check_backend` does the same for a backend. `fxopt check NAME --load file.py` prints the checks one by one, which
:func:`run_checks` gives as results and :func:`checks_of` as callables.
"""

from fxopt.testing.backend_checks import backend_checks
from fxopt.testing.contract import Check, CheckResult, ContractError
from fxopt.testing.examples import Example, find_example
from fxopt.testing.pass_checks import pass_checks
from fxopt.testing.results import check_backend, check_pass, checks_of, run_checks
from fxopt.testing.small_models import SmallModel, small_models, small_programs
from fxopt.testing.small_workload import small_workload

__all__ = [
    "Check",
    "CheckResult",
    "ContractError",
    "Example",
    "SmallModel",
    "backend_checks",
    "check_backend",
    "check_pass",
    "checks_of",
    "find_example",
    "pass_checks",
    "run_checks",
    "small_models",
    "small_programs",
    "small_workload",
]
