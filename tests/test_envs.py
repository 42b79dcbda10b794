"""The lock, the conda files and pyproject.toml agree with each other and with what the stages import."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from tests.helpers import ENVIRONMENT, REPOSITORY

TORCH_STAGES = {"train", "predict", "network.weights"}
NEEDED_BY_PANDAS = {"pyarrow"}  # the engine of read_parquet, imported by no module of ours
# Prints the files of all modules that a stage's program loads to begin with.
LOADED = """
import importlib, importlib.util, sys
name = "carpose." + sys.argv[1]
package = importlib.util.find_spec(name).submodule_search_locations
importlib.import_module(name + ".__main__" if package else name)
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


PROGRAM = "python -m carpose."


def rules() -> list[tuple[str, str, str]]:
    """Of each rule that runs a program: its module, its conda file, its text."""
    text = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow").rglob("*.smk")))
    found = []
    for rule in re.split(r"^ *(?=(?:use )?rule )", text, flags=re.M)[1:]:
        if stage := re.search(r"python -m carpose\.([\w.]+)", rule):
            file = re.search(r'conda:\n +f"\{ENVS\}/(\w+)\.yaml"', rule)
            found.append((stage[1], file[1] if file else "", rule))
    assert "".join(rule for _, _, rule in found).count(PROGRAM) == text.count(PROGRAM)
    return found


@functools.cache
def imports(stage: str) -> set[str]:
    """Outside packages imported, anywhere in the text, by the modules of ours that this stage loads; where it
    makes networks, by all of `models`, which the registry names."""
    command = [sys.executable, "-c", LOADED, stage]
    loaded = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    ours = {REPOSITORY / "workflow" / "carpose", REPOSITORY / "models"}
    files = {Path(file) for file in loaded.stdout.split() if ours & {*Path(file).parents}}
    if stage in TORCH_STAGES:
        files |= set((REPOSITORY / "models").glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"models", "carpose"}


@pytest.mark.parametrize("stage, name", sorted({(stage, name) for stage, name, _ in rules()}))
def test_conda_file_holds_what_the_stage_imports(stage, name):
    distributions = packages_distributions()
    needed = {normal(distributions[package][0]) for package in imports(stage)} | NEEDED_BY_PANDAS
    if (stage, "torch") in {rule[:2] for rule in rules()} and name == "light":
        needed -= {"torch"}  # imported by that other command of the same program alone
    assert needed <= set(conda(name))


@pytest.mark.parametrize("stage, name, rule", rules())
def test_every_rule_that_runs_a_program_names_its_conda_file(stage, name, rule):
    # The last two are commands of stages that are light but for these.
    torch = stage in TORCH_STAGES or "receptive-field" in rule or "studies measure" in rule
    assert name == ("torch" if torch else "light")


def test_images_name_a_user():
    """Snakemake asks for the name of the user, who may have no line in /etc/passwd."""
    for name in ("Dockerfile", "carpose.def"):
        text = (REPOSITORY / "envs" / name).read_text(encoding="utf-8")
        assert re.search(r"\bUSER=", text) and re.search(r"\bLOGNAME=", text)
