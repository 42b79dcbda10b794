"""Freed memory is reused."""

import platform
import subprocess
import sys

import pytest

from tests.helpers import ENVIRONMENT

PROGRAM = """
import resource
import numpy as np
from carpose.core import memory
{}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**25) + 1  # 256 MiB twice
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is of glibc")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_reused(kept):
    program = PROGRAM.format("memory.keep_freed_memory()" if kept else "")
    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert first > 100  # with pages of 2 MiB; with pages of 4 KiB it is 65,536
    assert second < 0.02 * first if kept else second > 0.5 * first
