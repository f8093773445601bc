"""Client code written for bare gRPC sees the same with our interceptors attached, and so does its server.

Each story is played twice, on bare channels and on guarded ones, each time with a server and breakers of its own. The
notes of both runs must be equal; no permit may stay out; as many calls count as failures as the story says; and where it
says none, every breaker is closed. Where grpcio itself treats a channel with any interceptor otherwise, the story says
so, and is compared with one whose interceptors merely pass on.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.endings_table import OLD_GRPCIO
from tests.integration.transparency_stage import GUARDED, Certificate, Seen, Story, run, run_aio
from tests.integration.transparency_stories import STORIES
from tests.integration.transparency_stories_aio import STORIES_AIO, early_answers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Certificate]:
    """What makes a certificate that signs itself, once, if there is anything here to make it with."""
    made: list[Certificate] = []

    def make() -> Certificate:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("there is no openssl to make a certificate with")
        if not made:
            folder: Path = tmp_path_factory.mktemp("certificate")
            key, chain = folder / "key.pem", folder / "chain.pem"
            command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
            subprocess.run(command, check=True, capture_output=True)
            made.append(Certificate(key.read_bytes(), chain.read_bytes()))
        return made[0]

    return make


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """Leave what the other tests have made out of the collections of these, which are many."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def compare(story: Story, beside: Seen, guarded: Seen) -> None:
    """Nothing may differ, and the breakers must have seen what there was to be seen."""
    assert beside.client, "a story without notes compares nothing"
    assert guarded.client == beside.client
    assert guarded.server == beside.server
    assert guarded.in_flight == 0
    assert guarded.totals.get("failure", 0) == story.failures
    if not story.failures:
        assert guarded.states <= {"closed"}


SEES_PARTS = {
    "no_deadline": "a timeout that is configured is a deadline that the server is told of",
    "future_of_a_failure": "with a fallback, a future is an object around grpcio's: its error is not the future itself",
}
"""Stories that tell parts from none even where these have nothing to do, each with the reason."""


ATTACHED = pytest.mark.parametrize("attach", [GUARDED[0], pytest.param(GUARDED[1], marks=pytest.mark.once)])


def skip_if_it_sees(story: Story, attach: str) -> None:
    """Skip what tells parts from none."""
    if attach != GUARDED[0] and story.play.__name__ in SEES_PARTS:
        pytest.skip(SEES_PARTS[story.play.__name__])


@ATTACHED
@pytest.mark.parametrize("story", STORIES.stories, ids=str)
def test_story(story: Story, attach: str, certificate: Callable[[], Certificate]) -> None:
    """A client of `grpc` and its server see the same with and without us, and with all parts that never act."""
    skip_if_it_sees(story, attach)
    signed = certificate() if story.secure else None
    beside = run(story, story.beside, signed)
    compare(story, beside, run(story, attach, signed))


@ATTACHED
@pytest.mark.parametrize("story", STORIES_AIO.stories, ids=str)
def test_aio_story(story: Story, attach: str, certificate: Callable[[], Certificate]) -> None:
    """A client of `grpc.aio` and its server see the same with and without us, and with all parts that never act."""
    skip_if_it_sees(story, attach)
    signed = certificate() if story.secure else None
    beside = run_aio(story, "passing" if OLD_GRPCIO else story.beside, signed)
    compare(story, beside, run_aio(story, attach, signed))


def test_early_answer_to_a_client_that_writes_is_no_failure() -> None:
    """A server that answers before the client has written everything is healthy, whatever grpcio makes of the write."""
    story = Story(early_answers)
    seen = run_aio(story, "guarded")
    assert seen.totals.get("failure", 0) == 0
    assert seen.states == {"closed"}
