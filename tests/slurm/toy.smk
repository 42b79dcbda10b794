# What the profile and the plugin do with jobs of seconds: GPUs, growing requests, a bounded number of attempts.


rule all:
    input:
        "device0",
        "device1",
        "stubborn",


rule see_gpu:
    output:
        "device{n}",
    resources:
        gpu=1,
        mem_mb=100,
        runtime=5,
    shell:
        "sleep 3; echo device=$CUDA_VISIBLE_DEVICES > {output}"


rule fail_twice:
    output:
        "stubborn",
    resources:
        mem_mb=lambda wildcards, attempt: 100 * attempt,
        runtime=lambda wildcards, attempt: 5 * attempt,
    shell:
        "echo device=${{CUDA_VISIBLE_DEVICES-none}} >> attempts; [[ $(wc -l < attempts) == 3 ]]; touch {output}"
