"""`higfa run` on full disks, killed between any two steps, and with clocks that are set back."""

import pytest

from higfa_core.commands import main as cli

from ..batch.fake_comfy import FakeComfy
from .children import boundaries, finish, kill, start
from .disks import fill, small_disk
from .runs import made_by_run, make_plan, run_words
from .test_kills import BACK

JOBS = 8  # one of each image
ONWARD = -BACK


@pytest.fixture
def server_at(tmp_path):
    """Starts servers; what a server has made before is in its output folder."""
    servers = []

    def make(name, **options):
        servers.append(FakeComfy(tmp_path / f"server {name}", **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def calm(made, server_at, tmp_path):
    """What a run makes that nothing disturbs."""
    folder = make_plan(tmp_path / "calm", made, 1)
    assert cli.main(run_words(folder, [server_at("calm")])) == 0
    return made_by_run(folder)


@pytest.mark.parametrize("left", [0, 50_000, 200_000], ids=["at the start", "early", "late"])
def test_a_full_disk_is_named_and_the_next_start_makes_all(made, tmp_path, server_at, calm, refused, left):
    server = server_at("other")
    with small_disk(tmp_path / "disk", 4 << 20) as place:
        folder = make_plan(place / "set", made, 1)
        ballast = fill(place, leave=left)
        line = refused(*run_words(folder, [server]))
        assert line.startswith(f"error: The disk is full, so that {folder}") and ".part" not in line
        assert "Every image that manifest.jsonl names is whole" in line
        assert line.endswith("Free some space and run this again.")
        ballast.unlink()
        assert cli.main(run_words(folder, [server])) == 0
        assert made_by_run(folder) == calm
        assert len(server.posted) == JOBS  # none was made twice


@pytest.mark.slow
def test_killed_between_any_two_steps(made, tmp_path, server_at, calm):
    log, trace = tmp_path / "log", tmp_path / "trace"
    assert finish(run_words(make_plan(tmp_path / "0", made, 1), [server_at(0)]), log, trace=str(trace)) == 0
    numbers = boundaries(trace)
    assert len(numbers) > 5
    for number in numbers:
        folder, server = make_plan(tmp_path / f"{number + 1}", made, 1), server_at(number + 1)
        words = run_words(folder, [server])
        assert finish(words, log, die_before=number) == -9
        assert finish(words, log) == 0, log.read_text()
        assert made_by_run(folder) == calm and len(server.posted) == JOBS, number


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0.0, BACK), (ONWARD, 0.0), (BACK, ONWARD)])
def test_the_clock_is_set_after_a_kill(made, tmp_path, server_at, calm, before, after):
    folder, server, log = make_plan(tmp_path / "set", made, 1), server_at("slow", seconds=0.3), tmp_path / "log"
    words = run_words(folder, [server])
    driver = start(words, log, clock=before)
    while len(server.posted) < 2:
        assert driver.is_alive()
        driver.join(0.01)
    assert kill(driver, 0)
    assert finish(words, log, clock=after) == 0, log.read_text()
    assert made_by_run(folder) == calm and len(server.posted) == JOBS


@pytest.mark.slow
def test_two_at_once_with_clocks_that_differ(made, tmp_path, server_at, calm):
    folder, servers = make_plan(tmp_path / "set", made, 1), [server_at(number, seconds=0.1) for number in range(2)]
    both = [start(run_words(folder, servers), tmp_path / "log", clock=clock) for clock in (0.0, BACK)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "log").read_text()
    assert made_by_run(folder) == calm
