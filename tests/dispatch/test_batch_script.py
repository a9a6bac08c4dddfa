"""What SLURM is told of a job: the batch script as submitit writes it, the ranks' srun line, their environment."""

from __future__ import annotations

import itertools
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import submitit

from xtrain.dispatch import container
from xtrain.dispatch.batch_script import (
    cache_folder,
    helper_command,
    job_scratch,
    overruling_variables,
    rank_environment,
    script_text,
    setup_lines,
    srun_command,
    submitit_parameters,
    warning_seconds,
)
from xtrain.dispatch.cluster import KINDS, TRAINING, Profile, load_profile
from xtrain.dispatch.container import base_folders
from xtrain.dispatch.job_graph import study_file
from xtrain.errors import UserError
from xtrain.run_directory import RunDirectory
from xtrain.study import Recipe
from xtrain.tasks import catalog

PROFILES = Path(__file__).parents[2] / "slurm" / "clusters"
JOB: dict[str, Any] = {"time_limit": "04:00:00", "nodes": 2, "gpus_per_node": 4, "gpu_type": "h100", "cpus_per_task": 6}


def profile(job: dict[str, Any] | None = None, **changes: Any) -> Profile:
    return Profile.from_mapping({"scheduler": "slurm", "name": "site", "job": {**JOB, **(job or {})}, **changes})


def options(read: Profile, kind: str = "target", **parameters: Any) -> dict[str, str]:
    """The #SBATCH lines; an empty text for an option without a value."""
    parameters = {"job_name": "s/mnli/xnli", "logs": Path("/out/job/submitit"), **parameters}
    text = script_text(read, kind, "true", **parameters)
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    pairs = [line.partition("=") for line in lines]
    assert len({name for name, _, _ in pairs}) == len(pairs), "an option is there twice"
    return {name: value for name, _, value in pairs}


def test_a_job_of_two_nodes() -> None:
    found = options(
        profile({"partition": "gpu", "account": "me", "qos": "long", "constraint": "a&b", "memory_gib": 480}),
        dependency="afterok:7:8,afterany:9",
        exclude=["n3", "n5"],
        comment="abc",
    )
    assert found == {
        "job-name": "s/mnli/xnli",
        "partition": "gpu",
        "account": "me",
        "qos": "long",
        "constraint": "'a&b'",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "h100:4",
        "cpus-per-task": "6",
        "mem": "480G",
        "time": "240",
        "signal": "USR2@60",
        "requeue": "",
        "dependency": "afterok:7:8,afterany:9",
        "kill-on-invalid-dep": "yes",
        "exclude": "n3,n5",
        "comment": "abc",
        "output": "/out/job/submitit/%j_0_log.out",
        "open-mode": "append",
    }


def test_what_the_profile_leaves_out_is_the_sites_choice() -> None:
    found = options(Profile.from_mapping({"scheduler": "slurm", "job": {"time_limit": 60}}))
    assert set(found) == {
        "job-name", "nodes", "ntasks-per-node", "time", "signal", "requeue", "output", "open-mode",
    }  # fmt: skip


def test_no_work_characterisation_key_but_the_profiles_own() -> None:
    assert "wckey" not in options(profile())
    assert options(profile({"sbatch": {"wckey": "k"}}))["wckey"] == "k"


def test_more_options() -> None:
    more = {"mail-type": "END,FAIL", "spread-job": True, "hint": False, "exclude": "n1", "nice": 100}
    found = options(profile({"sbatch": more, "reservation": "r", "exclusive": True}), exclude=["n2"])
    assert (found["mail-type"], found["spread-job"], found["nice"]) == ("END,FAIL", "", "100")
    assert "hint" not in found
    assert found["exclude"] == "n1,n2"
    assert (found["reservation"], found["exclusive"]) == ("r", "")


@pytest.mark.parametrize(("gib", "text"), [(0, "0"), (480, "480G"), (1.5, "1536M")])
def test_memory(gib: float, text: str) -> None:
    assert options(profile({"memory_gib": gib}))["mem"] == text


def test_gpus_in_the_older_words() -> None:
    found = options(profile({"gpu_option": "gres"}))
    assert found["gres"] == "gpu:h100:4"
    assert "gpus-per-node" not in found
    assert options(profile({"gpu_option": "gres", "gpu_type": ""}))["gres"] == "gpu:4"


def test_prepare_asks_for_no_gpus() -> None:
    found = options(profile(), "prepare")
    assert not {"gpus-per-node", "gres"} & set(found)
    assert (found["nodes"], found["ntasks-per-node"]) == ("1", "1")


def test_without_leave_to_requeue() -> None:
    """The job does not requeue itself; SLURM may, when it has lost a node, unless the site knows only no-requeue."""
    found = options(profile(preemption={"requeue": False, "signal": "SIGTERM"}))
    assert "requeue" in found
    assert found["signal"] == "TERM@60"
    found = options(profile({"sbatch": {"no-requeue": True}}, preemption={"requeue": False}))
    assert "no-requeue" in found
    assert "requeue" not in found


@pytest.mark.parametrize(
    ("limit", "lead", "expected"),
    [("04:00:00", 120, 60), ("04:00:00", 300, 240), ("04:00:00", 30, 0), (5, 120, 15), (1, 30, 0)],
)
def test_slurms_own_warning_never_comes_before_the_supervisors(limit: str | int, lead: int, expected: int) -> None:
    assert warning_seconds(profile({"time_limit": limit}, preemption={"lead_seconds": lead}), "target") == expected


def test_the_script_is_the_one_that_submitit_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = tmp_path / "bin" / "srun"  # submitit only looks whether there is one
    srun.parent.mkdir()
    srun.write_text("")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    for name in ("a100", "h100", "cpu"):
        read = load_profile(name, PROFILES)
        for kind in KINDS:
            of_job: dict[str, Any] = {"job_name": "x/y", "logs": tmp_path / "a b", "dependency": "afterok:1"}
            executor = submitit.SlurmExecutor(folder=tmp_path / "private")
            executor.update_parameters(**submitit_parameters(read, kind, **of_job))
            submitted = executor._make_submission_file_text("exec true", "")
            assert submitted == script_text(read, kind, "true", **of_job)
            assert str(tmp_path / "private") not in submitted


@pytest.mark.parametrize("key", ["job_name", "dependency", "comment", "exclude", "logs"])
def test_no_value_ends_its_line(key: str) -> None:
    """bash would run what stands behind it."""
    value: Any = {"exclude": ["n1\ntouch x"], "logs": Path("/a\ntouch x")}.get(key, "1\ntouch x")
    with pytest.raises(UserError, match="cannot stand in a batch script"):
        options(profile(), **{key: value})


def test_local_parameters_are_submitits_own(tmp_path: Path) -> None:
    read = load_profile("local", PROFILES)
    parameters = submitit_parameters(read, "target", job_name="x")
    assert parameters["tasks_per_node"] == 1, "one supervisor, which starts the ranks"
    submitit.LocalExecutor(folder=tmp_path).update_parameters(**parameters)
    assert script_text(read, "target", "true", job_name="x") == ""


def test_the_shells_variables_do_not_overrule_the_profile() -> None:
    shell = dict.fromkeys(
        ["SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_TIMELIMIT", "SLURM_JOB_ID", "SLURM_CONF", "HOME"], "x"
    )
    torchrun = dict.fromkeys(["RANK", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE", "GLOO_SOCKET_IFNAME"], "x")
    assert overruling_variables(profile(), "target", torchrun) == [*torchrun][:3]
    assert overruling_variables(profile({"qos": "long"}), "target", shell) == [
        "SBATCH_QOS",
        "SBATCH_TIMELIMIT",
        "SLURM_JOB_ID",
    ]
    assert "SBATCH_ACCOUNT" in overruling_variables(profile({"account": "me"}), "target", shell)


def setup(read: Profile, tmp_path: Path, head: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script's setup lines as the batch shell would, then print what it has."""
    script = tmp_path / "script.sh"
    script.write_text("\n".join([head, *setup_lines(read), "env"]))
    return subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)


def test_setup_lines(tmp_path: Path) -> None:
    read = profile(environment={"modules": ["cuda/12"], "setup": ["export B=$A-b"], "variables": {"A": "a 'c' $x"}})
    ran = setup(read, tmp_path, "module() { echo loads $2; }")
    assert ran.returncode == 0, ran.stderr
    assert "loads cuda/12" in ran.stdout
    assert "A=a 'c' $x\n" in ran.stdout
    assert "B=a 'c' $x-b\n" in ran.stdout


def test_a_module_that_is_missing_ends_the_job(tmp_path: Path) -> None:
    ran = setup(profile(environment={"modules": ["cuda/99"]}), tmp_path, "module() { return 1; }")
    assert ran.returncode == 1
    assert "module load cuda/99 failed on " in ran.stderr


def test_ranks_of_two_nodes() -> None:
    line = srun_command(profile(), "target", Path("/out/a b/100%"))
    assert line[0] == "srun"
    for option in ("--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=6", "--gpus-per-node=h100:4",
                   "--output=/out/a b/100%%/logs/rank-%t.log", "--open-mode=append", "--export=ALL"):  # fmt: skip
        assert option in line
    assert not [option for option in line if option.startswith(("--gpus-per-task", "--container", "--cpu-bind"))]


def test_each_rank_sees_its_own_gpu() -> None:
    assert "--gpus-per-task=h100:1" in srun_command(profile({"gpu_layout": "one"}), "target", Path("/out"))
    assert "--gpus-per-task=1" in srun_command(profile({"gpu_layout": "one", "gpu_type": ""}), "target", Path("/out"))
    cpu = srun_command(profile({"gpu_layout": "one"}), "prepare", Path("/out"))
    assert not [option for option in cpu if "gpu" in option]


def test_ranks_without_a_number_of_cpus_share_what_the_node_gives() -> None:
    free = Profile.from_mapping({"scheduler": "slurm", "job": {"time_limit": 60, "tasks_per_node": 4}})
    line = srun_command(free, "target", Path("/o"), environment={"SLURM_CPUS_ON_NODE": "64"})
    assert {"--cpus-per-task=16", "--cpu-bind=none"} < set(line)


def test_what_runs_beside_the_ranks_waits_for_nothing_and_takes_one_cpu() -> None:
    line = helper_command(3)
    assert {"--ntasks=3", "--cpus-per-task=1", "--overlap", "--mpi=none", "--input=none"} < set(line)


@pytest.mark.parametrize("ranks", [16, 8, 3, 0])
@pytest.mark.parametrize("name", ["h100", "a100"])
def test_every_recipe_has_a_script_whatever_the_ranks(name: str, ranks: int) -> None:
    """0: as many as the profile gives to batches of that size."""
    read = load_profile(name, PROFILES)
    if ranks:
        whole = {"nodes": max(1, ranks // 8), "gpus_per_node": min(ranks, 8), "examples_per_rank": 0}
        read = replace(read, job={**read.job, "intermediate": whole, "target": whole})
    sizes = {Recipe(**spec.recipe).batch_size for spec in catalog.load().values()}
    assert sizes >= {4, 8, 24, 32}
    for kind, batch in itertools.product(TRAINING, sizes):
        asked = read.resources(kind, batch)
        assert asked.num_ranks == ranks or (not ranks and 4 * asked.num_ranks <= max(4, batch))
        found = options(read, kind, batch=batch)
        line = srun_command(read, kind, Path("/out"), batch=batch)
        assert int(found["nodes"]) * int(found["ntasks-per-node"]) == asked.num_ranks
        assert f"--ntasks={asked.num_ranks}" in line


CONTAINER = {"image": "/images/x.sqsh", "mounts": ["/data", "/a:/b:ro"]}


def test_in_a_container_of_srun() -> None:
    read = profile(container=CONTAINER, storage={"scratch": "/local", "cache": "/cache"})
    line = srun_command(read, "target", Path("/out/run"), mounts=[Path("/out")])
    assert "--container-image=/images/x.sqsh" in line
    (mounts,) = [option for option in line if option.startswith("--container-mounts=")]
    assert ",/out:/out,/cache:/cache,/local:/local" in mounts
    assert mounts.endswith(",/data:/data,/a:/b:ro")
    assert read.rank_python == "python3"


@pytest.mark.parametrize("knows", [True, False])
def test_what_we_set_goes_before_the_images_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool) -> None:
    program = tmp_path / "srun"
    program.write_text(f"#!/bin/sh\necho '{'--container-env=NAME[,NAME...]' if knows else '--container-image'}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    container._srun_knows.cache_clear()
    read = profile(container=CONTAINER, storage={"scratch": "/local", "cache": "/cache"})
    line = srun_command(read, "target", Path("/out/run"), exported=["XTRAIN_CACHE", "HF_HOME"])
    container._srun_knows.cache_clear()
    assert ("--container-env=XTRAIN_CACHE,HF_HOME" in line) == knows
    assert any(word.startswith("--container-env") for word in line) == knows


def test_an_image_sees_the_hubs_cache_and_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hub", "base", "sets"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "sets"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    read = profile(container=CONTAINER, storage={"scratch": "/local", "cache": "/cache"})
    run = RunDirectory(tmp_path / "run").create()
    assert base_folders(run) == []
    run.phase_file.write_text(f'base_folder = "{tmp_path}/base"\n')
    line = srun_command(read, "target", run.path, mounts=base_folders(run))
    (mounts,) = [option.partition("=")[2].split(",") for option in line if option.startswith("--container-mounts=")]
    mine = [mount.partition(":")[0].removeprefix(f"{tmp_path}/") for mount in mounts if str(tmp_path) in mount]
    assert mine == ["base", "hub", "sets"], "what is not there cannot be mounted"
    assert rank_environment(read, "target", "7")["HF_HOME"] == str(tmp_path / "hub")
    assert "HF_HOME" not in rank_environment(profile(), "target", "7")


def test_the_study_names_the_base_of_what_is_prepared(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run").create()
    study_file(run).write_text(f'base = "{tmp_path}"\n')
    assert base_folders(run) == [tmp_path]
    study_file(run).write_text('base = "FacebookAI/xlm-roberta-large"\n')
    assert base_folders(run) == []
    (tmp_path / "other").mkdir()
    row = f'[[intermediate]]\nname = "other"\nbase = "{tmp_path}/other"\n'
    study_file(run).write_text(f'[[base]]\nname = "own"\nmodel = "{tmp_path}"\n{row}')
    assert base_folders(run) == [tmp_path, tmp_path / "other"]


def test_a_cluster_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    assert options(profile(cluster="alpha"))["clusters"] == "alpha"
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "alpha")
    assert "clusters" not in options(profile(cluster="alpha")), "a job of it submits where it is"
    assert "clusters" not in options(profile())


def test_what_sites_want_in_a_script() -> None:
    found = options(profile({"memory_gib_per_cpu": 3.5, "comment": "project 7"}), comment="xtrain abc")
    assert found["mem-per-cpu"] == "3584M"
    assert "mem" not in found
    assert found["comment"] == "'project 7 xtrain abc'"
    lines = setup_lines(profile(environment={"purge_modules": True, "modules": ["cuda"]}))
    assert lines.index("module purge") < next(n for n, line in enumerate(lines) if line.startswith("module load cuda"))


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_in_apptainer(runtime: str) -> None:
    read = profile(container={**CONTAINER, "runtime": runtime}, storage={"scratch": "/local", "cache": "/cache"})
    line = srun_command(read, "target", Path("/out/run"))
    start = line.index(runtime)
    assert line[start : start + 3] == [runtime, "exec", "--nv"]
    assert line[-1] == "/images/x.sqsh"
    assert "--nv" not in srun_command(read, "prepare", Path("/out/run"))


def test_environment_of_ranks() -> None:
    read = profile(
        storage={"scratch": "/local/$USER/${SLURM_JOB_ID}", "cache": "/shared/$USER"},
        network={"interface": "ib0,ib1"},
        environment={"variables": {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": 3}},
    )
    found = rank_environment(read, "target", "77", {"USER": "me", "SLURM_JOB_ID": "77"})
    root = f"/local/me/77/xtrain-{os.getuid()}-77"
    assert found == {
        "OMP_NUM_THREADS": "3",
        "XTRAIN_CACHE": "/shared/me",
        "XTRAIN_SCRATCH": root,
        "TRITON_CACHE_DIR": f"{root}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{root}/inductor",
        "TORCH_EXTENSIONS_DIR": f"{root}/extensions",
        "GLOO_SOCKET_IFNAME": "ib0,ib1",
        "NCCL_SOCKET_IFNAME": "=ib0,ib1",
        "NCCL_DEBUG": "INFO",
    }


def test_threads_of_a_rank() -> None:
    env = {"SLURM_CPUS_ON_NODE": "64"}
    assert rank_environment(profile(), "target", "1", env)["OMP_NUM_THREADS"] == "6"
    free = Profile.from_mapping({"scheduler": "slurm", "job": {"time_limit": 60, "tasks_per_node": 4}})
    assert rank_environment(free, "target", "1", env)["OMP_NUM_THREADS"] == "16"
    assert rank_environment(free, "prepare", "1", env)["OMP_NUM_THREADS"] == "64"


def test_two_jobs_on_a_node_share_no_cache() -> None:
    folders = {job_scratch(profile(), job, {"SLURM_TMPDIR": "/local"}) for job in ("7", "8")}
    assert len(folders) == 2
    assert job_scratch(profile(), "7", {}).parent == Path("/tmp")


def test_folders_with_variables() -> None:
    env = {"USER": "me"}
    assert cache_folder(profile(storage={"cache": "/s/$USER/c"}), env) == Path("/s/me/c")
    assert cache_folder(profile(storage={"cache": "${X:-/d}/c"}), env) == Path("/d/c")
    assert cache_folder(profile(storage={"cache": "${X:-/d}/c"}), {"X": "/x"}) == Path("/x/c")
    assert cache_folder(profile(storage={"cache": "~/c"}), env) == Path.home() / "c"
    with pytest.raises(UserError, match=r"site: storage\.cache: .*SCRATCH is not set in the job"):
        cache_folder(profile(storage={"cache": "$SCRATCH/c"}), env)
