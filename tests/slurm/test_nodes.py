"""Failures of nodes and of the controller. Each test affects the whole cluster, so they run one at a time."""

from tests.slurm.conftest import Run


def kill_node(run: Run, ref: str) -> str:
    """Kills the node on which `ref` runs and marks it down, so that the controller knows at once. Returns the node."""
    node = run.node_of(ref)
    assert node
    run.cluster.tool(node, verb="kill-node")
    run.cluster.tool("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    return node


def revive(run: Run, node: str) -> None:
    """Starts the node's slurmd and waits until the node is up (resuming it if it is still marked down)."""
    run.cluster.tool(node, verb="start-node")

    def up() -> bool:
        state = run.cluster.tool("sinfo", "--noheader", f"--nodes={node}", "--format=%T", "--partition=main")
        if state.startswith("down"):
            run.cluster.tool("sh", "-c", f"scontrol update NodeName={node} State=RESUME || true")  # may be up already
        return state.startswith(("idle", "mixed", "alloc", "comp"))

    run.until(up)


def test_a_node_that_dies_while_judging_costs_no_record(run: Run):
    run.env |= {"TOY_HOLD": "square", "TOY_STAGES": "3"}
    run.submit("parallel.nodes=1")
    run.held("iter1/square", 3)
    node = kill_node(run, "iter1/square")
    run.let_go("iter1/square")  # shards on the other node
    run.wait()
    revive(run, node)
    run.assert_whole()
    assert len([e for e in run.ends("iter1-square") if e == "start"]) > 3


def test_a_node_that_dies_while_training_on_two_nodes_costs_no_step(run: Run):
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "2"}
    run.submit()
    run.held("iter0/grow")
    node = kill_node(run, "iter0/grow")
    revive(run, node)
    run.wait()
    run.assert_whole()
    assert len([e for e in run.ends("iter0-grow") if e == "start"]) == 2


def test_an_attempt_that_outlives_its_node_is_fenced(run: Run):
    """Only slurmd dies: the old processes keep running beside the new attempt, and must stop."""
    run.env |= {"TOY_HOLD": "grow", "TOY_STEP": "0.7", "TOY_STAGES": "2"}  # the old attempt goes on beside it
    run.submit("parallel.nodes=1")
    run.held("iter0/grow")
    node = run.node_of("iter0/grow")
    run.cluster.tool(node, verb="lose-node")
    run.cluster.tool("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    run.wait()
    revive(run, node)
    run.assert_whole()
    assert len([e for e in run.ends("iter0-grow") if e == "start"]) == 2
    assert "failed" not in run.ends("iter0-grow")
    log = next((run.dir / "slurm/iter0-grow").glob("log-*.txt")).read_text()
    assert "the job has moved on" in log or "a later attempt has taken over" in log


def test_jobs_wait_for_nodes_that_are_drained_and_what_no_node_ever_has_is_refused(run: Run):
    run.env["TOY_STAGES"] = "2"
    assert "configuration is not available" in run.submit("cluster.train.gpus=100", code=2)
    run.cluster.tool("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=maintenance")
    said = run.submit()
    assert "iter0/grow: no node that is up now can run it; some are down or drained" in said
    run.cluster.tool("scontrol", "update", "NodeName=ALL", "State=RESUME")
    run.wait()
    run.assert_whole()


def test_a_controller_that_restarts_changes_nothing_and_status_works_without_it(run: Run):
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "2"}
    run.submit("parallel.nodes=1")
    run.held("iter0/grow")
    run.cluster.saved(next(job[0] for job in run.jobs() if job[1] == "RUNNING"))
    run.cluster.tool(verb="kill-controller")
    found = run.status()
    assert "does not answer" in found["notes"][0]
    assert found["iter0/seed"]["state"] == "done"
    assert found["iter0/grow"]["state"] == "running"
    assert "Slurm" in run.submit(code=2)
    run.cluster.tool(verb="start-controller")
    run.let_go("iter0/grow")
    run.wait()
    run.assert_whole()
    assert len([e for e in run.ends("iter0-grow") if e == "start"]) == 1


def test_the_supervisor_submits_again_what_a_node_failure_left(run: Run):
    """The site does not requeue: the job dies with its node, its dependents are cancelled, and all are planned again, though
    the partition has too few nodes by then."""
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "3"}
    run.submit("cluster.max_replans=2", "cluster.flags=[--no-requeue]")
    run.held("iter0/grow")
    node = kill_node(run, "iter0/grow")
    run.until((run.dir / "slurm/supervision.json").exists)
    revive(run, node)
    run.wait()
    run.assert_whole()
    assert "submitted" in run.status()["notes"][0]
