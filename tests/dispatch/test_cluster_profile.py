"""Cluster profiles: what is read, what a job of each kind gets, and every mistake named at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xtrain.dispatch import cluster
from xtrain.dispatch.cluster import KINDS, Profile, lead_for, load_profile, parse_time
from xtrain.errors import UserError

PROFILES = Path(__file__).parents[2] / "slurm" / "clusters"
GPUS: dict[str, Any] = {
    "scheduler": "slurm",
    "job": {"partition": "gpu", "gpus_per_node": 8, "cpus_per_task": 12, "time_limit": "04:00:00", "exclusive": True},
}


def profile(**changes: Any) -> Profile:
    return Profile.from_mapping({**GPUS, **changes})


def job(**changes: Any) -> dict[str, Any]:
    return {"job": {**GPUS["job"], **changes}}


def problems(**changes: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        profile(**changes)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", ["a100", "h100", "cpu", "local"])
def test_the_examples_are_valid(name: str) -> None:
    read = load_profile(name, PROFILES)
    assert read.name == name
    assert read.description
    assert all(read.resources(kind).num_ranks >= 1 for kind in KINDS)
    assert read.is_local == (name == "local")


def test_the_h100_example_has_a_rank_a_gpu() -> None:
    read = load_profile("h100", PROFILES)
    assert read.resources("intermediate").num_ranks == 16
    assert read.resources("target").num_ranks == 8
    assert read.resources("target").gpu_hours == 64
    assert read.resources("prepare").num_ranks == 1


@pytest.mark.parametrize(
    ("batch", "nodes", "gpus", "memory"),
    [(0, 2, 8, 800), (64, 2, 8, 800), (63, 1, 8, 800), (24, 1, 6, 600), (8, 1, 2, 200), (4, 1, 1, 100), (2, 1, 1, 100)],
)
def test_small_phases_ask_for_what_they_can_use(batch: int, nodes: int, gpus: int, memory: float) -> None:
    asked = profile(**job(nodes=2, memory_gib=800, examples_per_rank=4)).resources("target", batch)
    assert (asked.nodes, asked.gpus_per_node, asked.memory_gib) == (nodes, gpus, memory)
    assert asked.num_ranks == nodes * gpus
    whole = profile(**job(nodes=2)).resources("target", batch)
    assert whole.num_ranks == 16, "unless the profile says otherwise"
    cpus = Profile.from_mapping({"scheduler": "local", "job": {"tasks_per_node": 8, "examples_per_rank": 4}})
    assert cpus.resources("target", batch).num_ranks == gpus


def test_kinds_override_key_by_key() -> None:
    read = profile(**job(sbatch={"licenses": "a", "hint": "x"}, target={"nodes": 2, "sbatch": {"hint": False}}))
    target = read.resources("target")
    assert (target.nodes, target.gpus_per_node, target.partition, target.num_ranks) == (2, 8, "gpu", 16)
    assert target.sbatch == {"licenses": "a", "hint": False}
    assert read.resources("evaluate").sbatch == {"licenses": "a", "hint": "x"}


def test_single_processes_do_not_take_gpus_nor_nodes() -> None:
    read = profile(**job(nodes=4, prepare={"cpus_per_task": 32}))
    prepare = read.resources("prepare")
    assert (prepare.nodes, prepare.gpus_per_node, prepare.num_ranks, prepare.exclusive) == (1, 0, 1, False)
    assert (prepare.partition, prepare.cpus_per_task) == ("gpu", 32)
    assert read.resources("report").num_ranks == 1
    assert read.resources("target").nodes == 4


def test_a_site_that_has_gpus_alone_can_give_one_to_prepare() -> None:
    read = profile(**job(prepare={"gpus_per_node": 1}))
    assert (read.resources("prepare").gpus_per_node, read.resources("prepare").num_ranks) == (1, 1)


def test_through_json_and_back() -> None:
    for name in ("a100", "h100", "cpu", "local"):
        read = load_profile(name, PROFILES)
        again = Profile.from_mapping(json.loads(json.dumps(read.to_mapping())))
        assert again == read
        assert [again.resources(kind) for kind in KINDS] == [read.resources(kind) for kind in KINDS]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:30:00", 5400), ("2-00:00:00", 172800), ("100:00:00", 360000), ("00:00:30", 30), (90, 5400), (1, 60)],
)
def test_times(text: str | int, seconds: int) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "4h", "90", "1:00", "00:61:00", "00:00:00", "-1-00:00:00", 0, -5])
def test_no_times(text: str | int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_time(text)


def test_slurm_counts_whole_minutes() -> None:
    asked = profile(**job(time_limit="00:02:30")).resources("target")
    assert (asked.time_limit_minutes, asked.time_limit_seconds) == (3, 180)


@pytest.mark.parametrize(
    ("limit", "lead", "expected"), [(86400, 120, 120), (600, 120, 120), (480, 120, 120), (240, 120, 60), (60, 30, 15)]
)
def test_short_jobs_keep_three_quarters_of_their_time(limit: int, lead: int, expected: int) -> None:
    assert lead_for(limit, lead) == expected


def test_a_name_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('scheduler = "local"\n')
    assert load_profile("mine", tmp_path).name == "mine"
    assert load_profile(str(tmp_path / "mine.toml"), Path("/nowhere")).file == str(tmp_path / "mine.toml")
    with pytest.raises(UserError, match=r"--cluster mime: there is no such profile\n  allowed: mine\n.*mean 'mine'"):
        load_profile("mime", tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_profile("./mine.toml", tmp_path)


def test_profiles_of_the_user_and_of_the_site_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, sites = tmp_path / "mine", tmp_path / "site"
    for folder, name, ranks in ((mine, "gpu", 2), (sites, "gpu", 3), (sites, "h100", 4)):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(f'scheduler = "local"\n[job]\ntasks_per_node = {ranks}\n')
    monkeypatch.setattr(cluster, "SITE_WIDE", sites)
    monkeypatch.setenv("XTRAIN_CLUSTERS", f"{tmp_path}/none:{mine}")
    found = {name: load_profile(name) for name in ("gpu", "h100", "a100")}
    assert {name: one.resources("target").num_ranks for name, one in found.items()} == {"gpu": 2, "h100": 4, "a100": 4}
    with pytest.raises(UserError, match=r"allowed: a100, cpu, gpu, h100, local\n"):
        load_profile("h200x")


def test_memory_by_node_or_by_cpu() -> None:
    assert profile(**job(memory_gib_per_cpu=4)).resources("target").memory_gib_per_cpu == 4
    (said,) = problems(**job(memory_gib=100, target={"memory_gib_per_cpu": 4}))
    assert said.startswith("profile: job.target.memory_gib_per_cpu: is not allowed beside memory_gib")


def test_all_mistakes_at_once() -> None:
    found = problems(
        scheduler="slrum",
        job={"partitoin": "gpu", "time_limit": "4 hours", "prepar": {}, "target": {"nodes": 0}},
        preemption={"signal": "SIGKILL"},
        limits={"running": 0},
        storage={"scrach": "/tmp"},
    )
    text = "\n".join(found)
    assert len(found) == 8, text
    assert (
        "profile: scheduler: 'slrum' is not allowed\n  allowed: slurm, local\n  to do:   did you mean 'slurm'?" in text
    )
    assert "profile: job.partitoin: unknown key" in text
    assert "did you mean 'partition'?" in text
    assert "profile: job.time_limit: '4 hours' is not allowed" in text
    assert "profile: job.prepar: unknown key" in text
    assert "did you mean 'prepare'?" in text
    assert "profile: job.target.nodes: 0 is not allowed" in text
    assert "profile: preemption.signal: 'SIGKILL' is not allowed\n  allowed: SIGUSR2, SIGUSR1, SIGTERM" in text
    assert "profile: limits.running: 0 is not allowed" in text
    assert "profile: storage.scrach: unknown key" in text


def test_what_is_wrong_in_job_is_said_once_and_where_it_stands() -> None:
    found = problems(**job(tasks_per_node=4))
    assert len(found) == 1
    assert found[0].startswith("profile: job.tasks_per_node: 4 tasks on 8 GPUs")
    found = problems(**job(evaluate={"tasks_per_node": 9}))
    assert len(found) == 1
    assert found[0].startswith("profile: job.evaluate.tasks_per_node: 9 tasks on 8 GPUs")


def test_a_time_limit_is_needed() -> None:
    found = problems(job={"gpus_per_node": 1})
    assert len(found) == 1
    assert found[0].startswith("profile: job.time_limit: missing")
    assert Profile.from_mapping({"scheduler": "local"}).lead_seconds("target") is None


def test_the_lead_must_fit_into_every_training_job() -> None:
    found = problems(**job(target={"time_limit": 2}, report={"time_limit": 1}))
    assert len(found) == 1
    assert found[0].startswith("profile: job.target.time_limit: 120 s, but training begins to save 120 s before")
    assert "allowed: more than 120 s" in found[0]
    assert len(problems(**job(time_limit=2))) == 1


@pytest.mark.parametrize(("key", "value"), [("nodes", 2), ("tasks_per_node", 2)])
def test_prepare_is_one_process(key: str, value: int) -> None:
    assert problems(**job(prepare={key: value}))[0].startswith(f"profile: job.prepare.{key}: {value} is not allowed")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("time", "by time_limit"),
        ("gres", "by gpus_per_node, gpu_type and gpu_option"),
        ("--mem", "by memory_gib"),
        ("ntasks_per_node", "by tasks_per_node"),
        ("signal", r"by [preemption] signal"),
        ("output", "by the run directory"),
        ("clusters", "by cluster, beside scheduler"),
    ],
)
def test_options_of_ours_are_refused_in_sbatch(option: str, said: str) -> None:
    found = problems(**job(sbatch={option: "1"}))
    assert len(found) == 1
    assert f"profile: job.sbatch.{option}: is set already" in found[0]
    assert said in found[0]


def test_a_site_that_knows_only_gres_cannot_give_a_rank_one_gpu() -> None:
    (found,) = problems(**job(gpu_option="gres", target={"gpu_layout": "one"}))
    assert found.startswith('profile: job.target.gpu_layout: "one" takes srun --gpus-per-task')
    assert profile(**job(gpu_option="gres")).resources("target").gpu_layout == "all"


@pytest.mark.parametrize("option", ["p", "mail type", "--mail-type", "Mail"])
def test_no_options(option: str) -> None:
    assert "is no option" in problems(**job(sbatch={option: "1"}))[0]


def test_a_cluster_is_one_name() -> None:
    assert profile(cluster="alpha-2.hpc").cluster == "alpha-2.hpc"
    (said,) = problems(cluster="alpha,beta")
    assert said.startswith("profile: cluster: 'alpha,beta' is not allowed")


def test_a_local_profile_has_no_queue() -> None:
    with pytest.raises(UserError) as caught:
        Profile.from_mapping(
            {
                "scheduler": "local",
                "cluster": "alpha",
                "job": {"partition": "gpu", "target": {"nodes": 2}},
                "environment": {"modules": ["cuda"]},
                "container": {"image": "/a.sif"},
            }
        )
    where = [problem.where for problem in caught.value.problems]
    assert where == [
        "profile: job.partition",
        "profile: job.target.nodes",
        "profile: cluster",
        "profile: environment.modules",
        "profile: container.image",
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_API_KEY": "anything"},
        {"HF_TOKEN": "x"},
        {"MY_PASSWORD": "x"},
        {"AWS_ACCESS_KEY_ID": "x"},
        {"WHATEVER": "hf_" + "a" * 30},
        {"WHATEVER": "0123456789abcdef0123456789abcdef01234567"},
    ],
)
def test_secrets_are_refused(variables: dict[str, str]) -> None:
    (found,) = problems(environment={"variables": variables})
    name, value = next(iter(variables.items()))
    assert f"environment.variables.{name}: looks like a secret" in found
    assert "~/.netrc" in found
    assert len(value) < 8 or value not in found, "the message must not spread it"


SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"environment": {"setup": ["true", "export WANDB_API_KEY=abc123xyz"]}}, "environment.setup[1]"),
        ({"environment": {"setup": ["true; HF_TOKEN='abc123xyz' ./x"]}}, "environment.setup[0]"),
        ({"environment": {"setup": ["export A=hf_" + "b" * 20]}}, "environment.setup[0]"),
        ({"environment": {"setup": [f"wandb login {SECRET} || true"]}}, "environment.setup[0]"),
        ({"environment": {"modules": [f"cuda {SECRET}"]}}, "environment.modules[0]"),
        (job(sbatch={"export": f"ALL,A={SECRET}"}), "job.sbatch.export"),
        (job(sbatch={"export": "ALL,WANDB_API_KEY=abc123xyz"}), "job.sbatch.export"),
        (job(target={"sbatch": {"export": f"ALL,A={SECRET},B=1"}}), "job.target.sbatch.export"),
        (job(sbatch={"comment": SECRET}), "job.sbatch.comment"),
        ({"description": f"with {SECRET}"}, "description"),
        ({"network": {"interface": f"^{SECRET}"}}, "network.interface"),
        ({"container": {"image": f"docker://me:hf_{'a' * 30}@far/image"}}, "container.image"),
    ],
)
def test_secrets_are_refused_wherever_they_stand(table: dict[str, Any], key: str) -> None:
    (found,) = problems(**table)
    assert found.startswith(f"profile: {key}: looks like a secret")
    assert SECRET not in found
    assert "abc123xyz" not in found
    assert "a" * 30 not in found
    assert "b" * 20 not in found


def test_what_is_no_secret() -> None:
    variables = {"TOKENIZERS_PARALLELISM": "false", "NCCL_IB_HCA": "mlx5", "HF_TOKEN_PATH": "/a", "KEYBOARD": "us"}
    setup = ["export WANDB_API_KEY=$(cat ~/.wandb)", "source env.sh", "export HF_TOKEN=`cat ~/.hf`"]
    image = {"image": f"far/image@sha256:{'0a' * 32}"}
    sbatch = {"export": "ALL,HF_TOKEN,A=1"}
    read = profile(environment={"variables": variables, "setup": setup}, container=image, **job(sbatch=sbatch))
    assert read.environment.variables == variables
    assert profile(storage={"cache": "/data/hf_hub_cache_of_everyone"}).storage.cache


@pytest.mark.parametrize("name", ["RANK", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS"])
def test_variables_that_each_rank_has_for_itself(name: str) -> None:
    assert "is set for each rank" in problems(environment={"variables": {name: "1"}})[0]


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ({"network": {"interface": "^lo"}}, "network.interface"),
        ({"network": {"interface": "=eth0"}}, "network.interface"),
        ({"container": {"mounts": ["/a"]}}, "container.image"),
        ({"container": {"image": "a.sif", "mounts": ["data:/data"]}}, "container.mounts[0]"),
        ({"storage": {"scratch": "scratch"}}, "storage.scratch"),
        ({"limits": {"running": 20, "queued": 10}}, "limits.running"),
        ({"environment": {"modules": ["a; rm -r x"]}}, "environment.modules[0]"),
        ({"environment": {"variables": {"A-B": "1"}}}, "environment.variables.A-B"),
        ({"preemption": {"lead_seconds": 1}}, "preemption.lead_seconds"),
    ],
)
def test_mistakes(table: dict[str, Any], where: str) -> None:
    (found,) = problems(**table)
    assert found.startswith(f"profile: {where}: ")


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('scheduler = "slurm"\nname = "other"\n')
    with pytest.raises(UserError, match=r"site\.toml: name: unknown key"):
        load_profile(str(path), tmp_path)
    path.write_text('scheduler = "slurm"\n[job]\npartition = 3\n')
    with pytest.raises(UserError, match=r"site\.toml: job\.partition: 3 is not allowed"):
        load_profile(str(path), tmp_path)
