# The runs of a plan, here or on any machines that Snakemake can reach. `dtfn reproduce` starts it:
#
#   dtfn reproduce --tier demo --jobs 2
#   dtfn reproduce --tier bench --profile profiles/slurm
#
# What runs and what it takes is in the plan, as `dtfn plan --json` prints it; a run's folder is
# named by the key of its content.
import json
import shlex
from pathlib import Path

PLAN = json.loads(Path(config["plan"]).read_text(encoding="utf-8"))
PROGRAM = shlex.join(PLAN.get("program", ["dtfn"]))
OPTIONS = ["--tier", PLAN["tier"], "--reports", PLAN["reports"], "--plan", PLAN["plan"]]


rule all:
    localrule: True
    input:
        [local(f"{run['folder']}/manifest.json") for run in PLAN["runs"]],


for number, run in enumerate(PLAN["runs"]):

    rule:
        name:
            run["name"]
        output:
            local(f"{run['folder']}/manifest.json"),
        params:
            name=run["name"],
            program=PROGRAM,
            options=shlex.join(OPTIONS),
            threads=run.get("threads", run["resources"]["threads"]),
        priority: len(PLAN["runs"]) - number
        threads: run["resources"]["threads"]
        resources:
            mem_mb=run["resources"]["memory_mb"],
            runtime=run["resources"]["minutes"],
            **({"gpu": run["resources"]["gpu"]} if run["resources"]["gpu"] else {}),
        shell:
            "OMP_NUM_THREADS={params.threads} {params.program} run {params.name:q} {params.options}"
