"""The profiles: what they say of rules is true of the rules. Needs no Slurm."""

import re

import pytest
import yaml

from tests.helpers import REPOSITORY

PROFILES = REPOSITORY / "workflow" / "profiles"
RULES = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")))


def profile(name: str) -> dict:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def test_without_accounting_is_laid_over_the_other():
    """With --workflow-profile: it repeats nothing, and needs what the other says."""
    assert not set(profile("slurm-noaccounting")) & set(profile("slurm"))


def test_first_look_at_a_job_is_early_enough_for_squeue():
    """squeue is asked only if Slurm remembers jobs (MinJobAge, by default 300 s) three times as long."""
    assert 3 * profile("slurm")["slurm-init-seconds-before-status-checks"] <= 300


@pytest.mark.parametrize("name", ["slurm", "local-gpu"])
def test_profile_names_rules_that_exist(name):
    content = profile(name)
    named = {*content.get("groups", {}), *content.get("set-resources", {})}
    named |= {entry.split("=")[0] for entry in content.get("set-threads", [])}
    assert named <= set(re.findall(r"^\s*rule (\w+):", RULES, re.M))


def test_jobs_on_gpus_are_not_grouped():
    """A group asks at once for all that its jobs need: a GPU would idle through the other steps."""
    assert not {"train", "predict"} & set(profile("slurm")["groups"])


def test_only_profiles_say_how_often_to_try():
    """A rule's own `retries:` multiplies on Slurm; kept incomplete files pass for results."""
    assert not re.search(r"^\s*retries:", RULES, re.M)
    assert profile("slurm")["retries"] == 2
    assert not any("keep-incomplete" in profile(path.name) for path in PROFILES.iterdir())
