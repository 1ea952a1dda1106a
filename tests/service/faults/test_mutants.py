"""Damaged videos by the dozen: answered or refused, and never a decoder's death.

python -m benchmarks.fuzz does the same with a thousand of each.
"""

from __future__ import annotations

import pytest

from tests.mutants import ORIGINALS, draw_originals, mutate

#: Among them are transport streams that gain streams on the way.
SEEDS = range(100, 140)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return draw_originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("container", ORIGINALS)
def test_f30_damaged_videos_are_answered_or_refused(
    service, originals: dict[str, bytes], container: str
) -> None:
    reasons = ("crashed", "timeout", "out_of_memory")
    replaced = [service.metric("har_decoder_restarts_total", reason=reason) for reason in reasons]
    good = service.predict(originals[container]).json()["probabilities"]
    answered = 0
    for seed in SEEDS:
        response = service.predict(mutate(originals[container], seed))
        assert response.status_code in {200, 415, 422}, (seed, response.text)
        answered += response.status_code == 200
    assert 0 < answered < len(SEEDS)
    assert service.predict(originals[container]).json()["probabilities"] == good
    for reason, before in zip(reasons, replaced, strict=True):
        assert service.metric("har_decoder_restarts_total", reason=reason) == before
