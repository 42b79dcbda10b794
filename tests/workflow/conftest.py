"""One finished run, shared by the tests of the workflow."""

import pytest

from tests.helpers import CI, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with a complete run of the tiny configuration, which tests plan against. Its name is one that
    would break whatever reaches a shell or a file unquoted."""
    folder = tmp_path_factory.mktemp('it\'s "here" für 写真')
    snakemake(folder, "submission", *CI)
    return folder
