"""Requests made from the gateway's own description: never a 5xx, never an undescribed answer.

NEURORIT_OPENAPI_EXAMPLES sets how many cases each operation gets; the usual number makes three
thousand in all, which the last test counts.
"""

from __future__ import annotations

import os
from collections import Counter

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from tests.serving.fakes import Upstream, WordRetriever
from tests.serving.tiny_llama import tiny_tokenizer

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("NEURORIT_OPENAPI_EXAMPLES", "400"))
WANTED = 3000
cases: Counter[str] = Counter()
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


class Lasting(RagPipeline):
    """Every case starts and ends the application; the pipeline stays for the next one."""

    def close(self) -> None:
        """Nothing."""


def _pipeline() -> RagPipeline:
    upstream = Upstream([["Kar", "vel"]], forever=True)
    return Lasting(WordRetriever(), tiny_tokenizer(), PromptTemplate(), upstream.client())


GATEWAY = Gateway("tiny", "ready", _pipeline(), base_model="base", base=_pipeline())
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(GATEWAY))


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_no_request_breaks_the_gateway(case: schemathesis.Case) -> None:
    cases[case.operation.label] += 1
    case.call_and_validate(checks=CHECKS)


def test_the_cases_were_many_and_of_every_operation() -> None:
    operations = [result.ok().label for result in schema.get_all_operations()]
    if set(cases) != set(operations) or EXAMPLES < 400:
        pytest.skip("the cases of this run were chosen, not all")
    assert len(operations) >= 13
    assert cases.total() >= WANTED, cases
