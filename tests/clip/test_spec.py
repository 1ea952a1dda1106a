import pytest

from clip import ClipSpec, SpecError


def test_the_default_is_the_papers_clip():
    assert ClipSpec().shape == (20, 64, 64, 3)
    assert ClipSpec().nbytes == 245_760


def test_json_is_canonical_and_comes_back():
    spec = ClipSpec(frames=10, height=128, width=96)
    assert spec.canonical_json() == (
        '{"frames":10,"height":128,"resizer":"area-yuv-1","sampler":"part-middles-1","width":96}'
    )
    assert ClipSpec.from_dict(spec.to_dict()) == spec


def test_the_fingerprint_tells_specs_apart_and_stays():
    assert ClipSpec().fingerprint == ClipSpec(frames=20).fingerprint
    assert ClipSpec().fingerprint != ClipSpec(frames=10).fingerprint
    assert len(ClipSpec().fingerprint) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 0},
        {"frames": 20.0},
        {"frames": True},
        {"height": 100_000},
        {"width": None},
        {"sampler": "first-frames-1"},
        {"resizer": "nearest-1"},
        {"crop": 1},
    ],
)
def test_a_spec_that_this_code_cannot_compute_is_refused(change):
    with pytest.raises(SpecError):
        ClipSpec.from_dict({**ClipSpec().to_dict(), **change})


@pytest.mark.parametrize("record", [None, [], "spec", {}, {"frames": 20}])
def test_what_is_no_spec_is_refused(record):
    with pytest.raises(SpecError, match="exactly"):
        ClipSpec.from_dict(record)
