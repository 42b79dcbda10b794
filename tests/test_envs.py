"""The lock, the conda files and pyproject.toml agree with each other and with what the stages import."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

TORCH_STAGES = {"train", "predict", "weights"}
NEEDED_BY_PANDAS = {"pyarrow"}  # the engine of read_parquet, imported by no module of ours
# Prints the files of all modules that importing a stage loads.
LOADED = """
import importlib, sys
importlib.import_module("carpose." + sys.argv[1])
print(*(getattr(m, "__file__", None) or "" for m in list(sys.modules.values())), sep="\\n")
"""


def normal(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines) -> dict[str, str]:
    """{package: version} of `name==version` lines; anything else but a comment is an error."""
    found = {}
    for line in lines:
        line = line.split("#")[0].strip()
        if line:
            name, version = re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups()
            found[normal(name)] = version
    return found


def conda(name: str) -> dict[str, str]:
    wanted = yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text())["dependencies"]
    return pins(next(entry["pip"] for entry in wanted if isinstance(entry, dict)))


@pytest.fixture(scope="module")
def lock():
    return pins((REPOSITORY / "envs" / "requirements.lock").read_text().splitlines())


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_lock_pins_all_that_the_project_names(lock, project):
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {normal(re.match(r"[\w.-]+", entry)[0]) for entry in named} <= set(lock)


def test_slurm_plugin_is_the_extras_version_and_not_in_the_default_environment(lock, project):
    layer = pins((REPOSITORY / "envs" / "slurm.lock").read_text().splitlines())
    extra = pins(project["optional-dependencies"]["slurm"])
    assert extra.items() <= layer.items() and not set(layer) & set(lock)


def test_this_environment_is_the_locks(lock):
    # Not all of sys.path: setuptools, once imported, puts copies of its own there.
    installed = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    here = {normal(d.name): d.version.split("+")[0] for d in installed}
    wrong = {name: here.get(name) for name, version in lock.items() if here.get(name) != version}
    if wrong and Path(sys.prefix) != REPOSITORY / ".venv":
        pytest.skip(f"not the environment that make installs; other versions here: {wrong}")
    assert not wrong


@pytest.mark.parametrize("name", ["light", "torch"])
def test_conda_file_has_the_locks_versions(lock, name):
    wanted = conda(name)
    assert wanted == {package: lock.get(package) for package in wanted}


def stages() -> list[str]:
    """The modules that the rules run."""
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")))
    return sorted(set(re.findall(r"python -m carpose\.(\w+)", rules)))


def imports(stage: str) -> set[str]:
    """Outside packages imported, anywhere in the text, by the modules of ours that this stage loads."""
    path = os.pathsep.join([str(REPOSITORY / "workflow"), str(REPOSITORY)])
    command = [sys.executable, "-c", LOADED, stage]
    loaded = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    ours = [REPOSITORY / "workflow" / "carpose", REPOSITORY / "models"]
    files = [Path(file) for file in loaded.stdout.split() if {*ours} & {*Path(file).parents}]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"models", "carpose"}


@pytest.mark.parametrize("stage", stages())
def test_conda_file_holds_what_the_stage_imports(stage):
    file = conda("torch" if stage in TORCH_STAGES else "light")
    distributions = packages_distributions()
    needed = {normal(distributions[name][0]) for name in imports(stage)} | NEEDED_BY_PANDAS
    assert needed <= set(file)


def test_every_rule_that_runs_a_program_names_its_conda_file():
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")))
    for rule in re.split(r"^(?=rule )", rules, flags=re.M)[1:]:
        stage = re.search(r"python -m carpose\.(\w+)", rule)
        name = re.search(r'conda:\n +f"\{ENVS\}/(\w+)\.yaml"', rule)
        torch = stage[1] in TORCH_STAGES or "receptive-field" in rule  # one command of a light stage
        assert name[1] == ("torch" if torch else "light"), rule
